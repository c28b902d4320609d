"""Statistics of single tensors are joined as norms and means are."""

import math

import numpy as np
import pandas as pd
from made_up import made_up_task_vectors

from speechbook.tables import vector_tables


def test_norms_of_a_part_are_those_of_its_tensors_together():
    norms = pd.DataFrame(
        {
            "expert": "es", "stack": ["decoder", *["encoder"] * 5],
            "block": ["attention", "mlp", "mlp", "mlp", "norm", None], "layer": [0, 0, 0, 1, 0, None],
            "norm": [1.0, 3.0, 4.0, 1.0, 9.0, 9.0], "base_norm": [4.0, 30.0, 40.0, 2.0, 9.0, 9.0],
        }
    )  # fmt: skip
    found = vector_tables.by_layer(norms)
    assert found.to_dict("records") == [
        {"expert": "es", "part": "encoder mlp", "layer": 0, "relative_norm": 0.1},
        {"expert": "es", "part": "encoder mlp", "layer": 1, "relative_norm": 0.5},
        {"expert": "es", "part": "decoder attention", "layer": 0, "relative_norm": 0.25},
    ]


def test_shares_of_parts_are_summed_over_layers_and_averaged_over_experts():
    energy = pd.DataFrame(
        {
            "expert": ["es"] * 3 + ["it"] * 3, "stack": ["encoder", "encoder", "decoder"] * 2,
            "block": ["mlp", "mlp", "norm"] * 2, "layer": [0, 1, 0] * 2,
            "share": [0.1, 0.2, 0.7, 0.3, 0.2, 0.5], "scalars": [30, 30, 40] * 2,
        }
    )  # fmt: skip
    found = vector_tables.by_part(energy)
    assert list(found.index) == ["decoder norm", "encoder mlp"]
    assert np.allclose(found.loc["encoder mlp"], [0.6, 0.4, 0.3, 0.5])
    assert np.allclose(found.loc["decoder norm"], [0.4, 0.6, 0.5, 0.7])


def test_spectra_are_averaged_and_unmoved_matrices_left_out():
    moved = {"expert": "es", "stable_rank": 1.5}
    rows = pd.DataFrame(
        [
            moved | {"singular_values": [2.0, 1.0, 0.0], "energy_at": {"0.05": 0.8, "0.5": 1.0}},
            moved | {"singular_values": [4.0, 1.0, 0.0], "energy_at": {"0.05": 0.6, "0.5": 0.8}},
            {"expert": "es", "stable_rank": 0.0, "singular_values": [0.0, 0.0, 0.0], "energy_at": {}},
        ]
    )
    values, energy = vector_tables.spectra(rows)
    assert list(values["ratio"]) == [1.0, 0.375, 0.0] and list(values["share_of_rank"]) == [0.0, 0.5, 1.0]
    assert np.allclose(energy["energy"], [0.7, 0.9]) and list(energy["share_of_rank"]) == [0.05, 0.5]


def test_real_statistics_give_finite_tables():
    found = {kind: rows for kind, rows in pd.DataFrame(made_up_task_vectors("smoke")).groupby("kind")}
    assert vector_tables.by_layer(found["norm"])["relative_norm"].between(1e-4, 1e-2).all()
    values, energy = vector_tables.spectra(found["spectrum"])
    assert math.isclose(values["ratio"].max(), 1.0) and energy["energy"].between(0, 1).all()
