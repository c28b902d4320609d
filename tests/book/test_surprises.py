"""The page of findings says what the scripts say, and each script says what a reader needs."""

import re

import pytest

from speechbook.pages import surprises
from speechbook.pages.cards import check_block
from speechbook.study.store import project_root
from speechmerge.errors import BookError

ROOT = project_root()
SCRIPTS = sorted((ROOT / "findings").glob("*.sh"))


def test_the_page_is_current():
    check_block(ROOT / surprises.PAGE, surprises.render(ROOT / "findings"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_finding_has_a_title_versions_a_date_and_its_command(script):
    text = surprises.render(ROOT / "findings")
    [section] = [part for part in text.split("\n## ") if f"findings/{script.name}" in part]
    title = section.removeprefix("## ").splitlines()[0]
    assert 10 < len(title) < 130 and not title.endswith((".", ":"))
    assert re.search(r"\d+\.\d+\.\d+", section) and re.search(r"\d{4}-\d\d-\d\d", section)
    assert "Exits" not in section and section.count(script.name) == 1
    assert f"`{script.name}`" in (ROOT / "findings" / "README.md").read_text(encoding="utf-8")


def test_points_stay_apart_and_lines_are_joined(tmp_path):
    header = "#!/bin/sh\n# A title. And\n# a sentence.\n#   1. One\n#      goes on.\n#   2. Two.\n# Exits with 1.\n"
    (tmp_path / "a.sh").write_text(f"{header}set -e\n# code\n")
    assert surprises.render(tmp_path) == (
        "## A title\n\nAnd a sentence.\n\n1. One goes on.\n\n2. Two.\n\n```bash\nbash findings/a.sh\n```"
    )


def test_a_script_without_a_header_is_refused(tmp_path):
    (tmp_path / "a.sh").write_text("#!/bin/sh\nset -e\n")
    with pytest.raises(BookError, match=r"a\.sh: expected a line '#!' and then a comment"):
        surprises.render(tmp_path)
