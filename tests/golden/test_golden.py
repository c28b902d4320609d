"""The library against the peers' own outputs: every golden file, through the checker that later checks use too."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MANIFEST = json.loads((HERE / "A" / "manifest.json").read_text())


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory) -> dict[str, dict]:
    """Run the checker once over everything, random methods over 300 seeds."""
    file = tmp_path_factory.mktemp("golden") / "verdicts.json"
    command = [sys.executable, str(HERE / "check.py"), str(HERE / "A"), "tests.golden.adapter:merge"]
    done = subprocess.run(
        [*command, "--stochastic", "300", "--json", str(file)], cwd=ROOT, capture_output=True, text=True
    )
    found = {row["name"]: row for row in json.loads(file.read_text())}
    return found | {"output": done.stdout}


@pytest.mark.parametrize("entry", [e for e in MANIFEST["entries"] if e["file"]], ids=lambda e: e["name"])
def test_a_peers_result_is_reproduced(entry, verdicts):
    row = verdicts[entry["name"]]
    assert row["status"] == "ok", row


@pytest.mark.parametrize("entry", MANIFEST["stochastic"], ids=lambda e: e["name"])
def test_a_random_method_has_the_peers_mean_and_spread(entry, verdicts):
    [line] = [line for line in verdicts["output"].splitlines() if line.startswith(entry["name"] + " ")]
    assert line.endswith(" ok"), line
