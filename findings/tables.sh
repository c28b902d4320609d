#!/usr/bin/env bash
# datasets 5.2.0 reads a folder of parquet tables or refuses it, by which file comes first and whether one has no rows.
# Seen 2026-12-01 with datasets 5.2.0 and pyarrow 26.0.1 on Python 3.11. Results of many experiments, one file each, are
# such folders. pyarrow's own reader takes all of them:
#   1. A file with a schema and no rows fails the whole load ("BatchSize must be greater than 0, got 0"), alone or among
#      others: an experiment in which nothing was compared.
#   2. A file with one column more is filled up if it comes first, and refused if it comes second.
#   3. A column without a value (type null, or list of null) is filled up if its file comes second; if it comes first,
#      values are refused.
#   4. A column of whole numbers is widened if its file comes second; if it comes first, fractions are refused.
#   5. A column without a value that was written as text turns the numbers of all later files into text, without a word.
#
# So each table needs all columns of its kind with their types, whatever it holds; one without rows is better no file.
# Exits with 1 if any of this has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1 2> "$work/pip.log" ||
  { cat "$work/pip.log"; exit 1; }
export HF_HUB_OFFLINE=1 HF_HOME="$work/home" HF_DATASETS_DISABLE_PROGRESS_BARS=1
"$work/venv/bin/python" - "$work" 2> /dev/null <<'PYTHON'
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

print(f"Python {sys.version.split()[0]}, datasets {datasets.__version__}, pyarrow {pa.__version__}")
work = Path(sys.argv[1])
named = {"system": ["a"]}
tables = {
    "numbers": pa.table(named | {"wer": [0.1]}),
    "no rows": pa.table(named | {"wer": [0.1]}).slice(0, 0),
    "one column more": pa.table(named | {"wer": [0.2], "z": [1.0]}),
    "no value": pa.table(named | {"wer": pa.array([None], pa.null())}),
    "no value, as text": pa.table(named | {"wer": pa.array([None], pa.string())}),
    "whole numbers": pa.table(named | {"wer": [1]}),
    "words": pa.table(named | {"experts": [["es"]]}),
    "no words": pa.table(named | {"experts": pa.array([[]], pa.list_(pa.null()))}),
}
for name, table in tables.items():
    pq.write_table(table, work / f"{name}.parquet")


def read(names):
    """Return the type of the last column that datasets reads, or the first words of what it raises."""
    files = [str(work / f"{name}.parquet") for name in names]
    cache = work / "cache" / "+".join(names)
    try:
        found = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(cache))
    except datasets.exceptions.DatasetGenerationError as error:
        return "refused: " + str(error.__cause__).split("\n")[0][:60]
    return f"{len(found)} rows, {list(found.features.values())[-1]}"


cases = [
    (("no rows",), "refused: BatchSize"),
    (("numbers", "no rows"), "refused: BatchSize"),
    (("one column more", "numbers"), "2 rows, Value('float64')"),
    (("numbers", "one column more"), "refused: Couldn't cast"),
    (("numbers", "no value"), "2 rows, Value('float64')"),
    (("no value", "numbers"), "refused: Couldn't cast"),
    (("words", "no words"), "2 rows, List(Value('string'))"),
    (("no words", "words"), "refused: Couldn't cast"),
    (("numbers", "whole numbers"), "2 rows, Value('float64')"),
    (("whole numbers", "numbers"), "refused: Float value"),
    (("numbers", "no value, as text"), "2 rows, Value('float64')"),
    (("no value, as text", "numbers"), "2 rows, Value('string')"),
]
changed = False
for names, expected in cases:
    seen = read(names)
    changed |= not seen.startswith(expected)
    print(f"{' + '.join(names)}: {seen}" + ("" if seen.startswith(expected) else f"; was {expected}"))
both = pyarrow.dataset.dataset([work / f"{name}.parquet" for name in ("numbers", "no rows")]).to_table()
print(f"pyarrow reads numbers + no rows: {both.num_rows} row")
sys.exit(changed or both.num_rows != 1)
PYTHON
