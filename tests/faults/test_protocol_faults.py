"""A protocol with a slip in it is refused in one sentence, before anything is measured."""

import pytest
import yaml

from speechbook.study import protocol
from speechbook.study.store import project_root
from speechmerge.errors import StudyError

SLIPS = {
    "metric": (
        lambda p: p["metrics"]["asr"].update(primary="caped_wer"),
        "no metric 'caped_wer' for asr.*'capped_wer'",
    ),
    "metric of the other task": (lambda p: p["metrics"]["st"].update(primary="wer"), "no metric 'wer' for st"),
    "margin of the wrong sign": (
        lambda p: p["margins"].update(wer=-0.01),
        "margins.wer is -0.01; expected a number above 0",
    ),
    "margin of nothing": (lambda p: p["margins"].update(ber=0.01), "no metric 'ber', named in margins.*'wer'"),
    "no margin": (lambda p: p["margins"].pop("chrf"), "lacks chrf in margins"),
    "too few seeds": (lambda p: p["seeds"].update(table1=[0]), r"has the seeds \[0\] for table1; 3 are asked"),
    "the same seed thrice": (lambda p: p["seeds"].update(table1=[1, 1, 1]), "each value once"),
    "no seeds of the rest": (lambda p: p["seeds"].pop("every"), "lacks 'every' in seeds"),
    "unknown field": (lambda p: p.update(marginz={}), "no field 'marginz'.*'margins'"),
    "unknown field inside": (
        lambda p: p["training"].update(patients=3),
        "training has no field 'patients'.*'patience'",
    ),
    "too few rates": (lambda p: p["training"].update(rates=[1e-5]), "training.rates is"),
    "threshold": (lambda p: p["splits"].update(novel=70), "splits.novel is 70"),
    "missing part": (lambda p: p.pop("inference"), "lacks the field 'inference'"),
}


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_is_named(name, tmp_path):
    slip, told = SLIPS[name]
    content = yaml.safe_load((project_root() / "experiments" / "protocol.yaml").read_text())
    slip(content)
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(StudyError, match=told) as error:
        protocol.read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_yaml_is_refused(tmp_path):
    path = tmp_path / "protocol.yaml"
    path.write_text("metrics: [")
    with pytest.raises(StudyError, match="is not valid YAML"):
        protocol.read(path)


def test_the_committed_protocol_answers():
    found = protocol.read()
    assert found.seeds_of("table1") == (0, 1, 2) and found.seeds_of("domains") == (0,)
    assert found.margin(found.metrics["asr"].primary) > 0
