"""Fault 17 in the files of experiments: a field or value that is misspelt is refused when the files are read."""

import shutil
import time

import pytest

from speechbook.study import experiments, store
from speechmerge.errors import StudyError

OWN = store.project_root() / "experiments"
AGAINST = "against: [Zero-shot, Procrustes rank_ratio=0.5"
RATES = "learning_rates: [3.0e-5, 1.0e-4]"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of the project's experiments."""
    shutil.copytree(OWN, tmp_path / "experiments")
    monkeypatch.setenv("SPEECHMERGE_HOME", str(tmp_path))
    return tmp_path / "experiments"


def edit(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def refused(project, file, old, new, profile="speech"):
    """Edit one of the files and return the sentence that reading it, or planning, ends with."""
    edit(project / f"{file}.yaml", old, new)
    with pytest.raises(StudyError) as error:
        experiments.plan("table1" if file == "profiles" else file, profile)
    assert "\n" not in str(error.value)
    return str(error.value)


TABLES = [
    ("table1", "against:", "againts:", "table1.yaml has no field 'againts'. Did you mean 'against'?"),
    ("table1", "kind:", "kidn:", "has no field 'kidn'. Did you mean 'kind'?"),
    ("table1", "experiment:", "experimnt:", "has no field 'experimnt'. Did you mean 'experiment'?"),
    ("figure3", "vary:", "varry:", "has no field 'varry'. Did you mean 'vary'?"),
    ("rank", "describe:", "descirbe:", "has no field 'descirbe'. Did you mean 'describe'?"),
    ("table1", "tune: [", "tunes: [", "systems 'Task Arithmetic' has no field 'tunes'. Did you mean 'tune'?"),
    ("domains", "params: {flavour", "param: {flavour", "'Model Stock, mergekit' has no field 'param'."),
    ("rank", "params: {ortho", "parms: {ortho", "describe 'TSV-M (Newton-Schulz)' has no field 'parms'."),
    ("domain_experts", "each: true", "eahc: true", "systems 'Expert' has no field 'eahc'. Did you mean 'each'?"),
    ("decoding", "beams: 5, stop: f", "beam: 5, stop: f", "'Beam 5, first finished': decoding has no field 'beam'."),
    ("table1", "language_set:", "languge_set:", "published has no field 'languge_set'."),
    ("every_method", "but:", "butt:", "has no field 'butt'. Did you mean 'but'?"),
    ("every_method", "merges_of:", "merges_off:", "has no field 'merges_off'. Did you mean 'merges_of'?"),
    ("table1", "languages: set1\n", "", "table1.yaml lacks the field 'languages'."),
    ("table1", "system: Finetuned,", "system: '',", "systems[1].system is ''; expected a word."),
    ("table1", "system: Finetuned,", "", "systems[1] lacks the field 'system'."),
    ("table1", "kind: systems", "kind: system", "kind is 'system'. Did you mean 'systems'?"),
    ("table1", "[asr]", "[asrr]", "tasks[0] is 'asrr'. Did you mean 'asr'?"),
    ("table1", "[asr]", "[]", "tasks is []; expected at least one."),
    ("table1", "[asr]", "asr", "tasks is 'asr'; expected a list."),
    ("figure3", "vary: subsets", "vary: subset", "vary is 'subset'. Did you mean 'subsets'?"),
    ("table1", "train: all", "train: al", "train is 'al'. Did you mean 'all'?"),
    ("table3", "into: language", "into: langage", "into is 'langage'. Did you mean 'language'?"),
    ("table1", "model: base", "model: bass", "model is 'bass'. Did you mean 'base'?"),
    ("decoding", "stop: bound", "stop: bond", "decoding.stop is 'bond'. Did you mean 'bound'?"),
    ("decoding", "beams: 5", "beams: 0", "decoding.beams is 0; expected a number from 1 up."),
    ("domain_experts", "each: true", "each: 1", "each is 1; expected true or false."),
    ("domains", "{flavour: mergekit}", "mergekit", "params is 'mergekit'; expected names with values."),
    ("domains", "{flavour:", "{flavor:", "model_stock has no parameter 'flavor'. Did you mean 'flavour'?"),
    ("domains", "flavour: mergekit", "flavour: mergkit", "flavour is 'mergkit'. Did you mean 'mergekit'?"),
    ("beta", "{power: 2}", "{power: 0}", "'squares of kept values' cannot be merged: boosted_tsvm: power is 0"),
    ("beta", "match: {boost: 1.0}", "match: {boost: 1.5}", "boost is 1.5, outside [0, 1]"),
    ("beta", "sweep: boost", "sweep: bost", "boosted_tsvm has no parameter 'bost'. Did you mean 'boost'?"),
    ("table1", "[scaling]", "[scalign]", "task_arithmetic has no parameter 'scalign'. Did you mean 'scaling'?"),
    ("table1", "[scaling]", "[scaling, weights]", "tune names 2 parameters; expected one."),
    ("table1", "{density: mp}", "{density: mpp}", "There is no merge method 'mpp'."),
    ("table1", "{density: mp}", "{density: ties_}", "There is no merge method 'ties_'. Did you mean 'ties'?"),
    ("table1", "{density: mp}", "{density: svp}", "svp has no parameter 'density'."),
    ("table1", "method: mp,", "method: mpp,", "There is no merge method 'mpp'."),
    ("table10", "{scaling: sum}", "{scaling: sums}", "no 'sums' among its grids. Did you mean 'sum'?"),
    ("rank", "rank_ratio: shares", "rank_ratio: share", "no 'share' among its vary. Did you mean 'shares'?"),
    ("beta", "tuned_as: TSV-M (Newton-Schulz)}", "tuned_as: TSV}", "no system above is called 'TSV'."),
    ("table1", "[Task Arithmetic, M", "[Task Aritmetic, M", "names 'Task Aritmetic' in against, which is no system"),
    ("table1", "by_language: P", "by_language: p", "names 'pretrained' in by_language, which is no system of it."),
    ("rank", AGAINST, AGAINST + "5", "has no system 'Procrustes rank_ratio=0.55' to compare. Did you mean"),
    ("table1", "languages: set1", "languages: set9", "no profile has a set 'set9'. Did you mean 'set2'?"),
    ("domains", "out of domain: [ood]", "out of domain: [oood]", "no profile has a set 'oood'. Did you mean 'ood'?"),
    ("domains", "in domain: [domains]", "in domain: domains", "groups.in domain is 'domains'; expected a list."),
    ("table1", "file: lors_tables.csv", "file: lors_table.csv", "Did you mean 'lors_tables.csv'?"),
    ("table1", "table: table1,", "table: tabel1,", "lors_tables.csv has no table 'tabel1'. Did you mean 'table1'?"),
    ("table1", ", language_set: high", "", "lors_tables.csv has no language_set None. Known: high, low."),
    ("domains", "file: b", "table: a, file: b", "boosted_tsvm_table.csv has no table 'a'."),
    ("every_method", "merges_of: domains", "merges_of: domain", "no experiment 'domain'. Did you mean 'domains'?"),
    ("every_method", "merges_of: domains", "merges_of: task_vectors", "0 of 0 merges of 'task_vectors' are left"),
    ("every_method", "but: {flavour", "but: {flavor", "39 of 39 merges of 'domains' are left with but"),
    ("dynamic", "{system: se_merging}", "{system: se_mergin}", "there is no dynamic system 'se_mergin'. Did you mean"),
    ("dynamic", "temperature: 0.1", "temperature: 0", "cannot listen: se_merging: temperature is 0, outside (0, 1000]"),
    (
        "dynamic",
        "method: emr,",
        "method: emr, tune: scaling,",
        "has dynamic and tune; take over what another merge was",
    ),
    ("learnt", "method: fisher, hears: train", "method: fisher, hears: test", "hears is 'test'. Known: dev, train."),
    ("learnt", "fisher, hears", "ties, hears", "hears train, but ties collects no statistics."),
    ("learnt", "fisher, hears: train", "ties, clips: 8", "has clips, but ties hears no speech."),
    ("table1", "system: Finetuned,", "system: Pretrained,", "systems 'Pretrained' and 'Pretrained'; their letters"),
    ("table1", "system: Finetuned,", "system: PRETRAINED!,", "systems 'Pretrained' and 'PRETRAINED!'; their letters"),
    ("table1", "Finetuned, train: cell", "Finetuned, train: cell, method: mp", "has train and method of model, train"),
    ("table1", "Finetuned, train: cell", "Finetuned", "systems 'Finetuned' has none of model, train"),
    ("table1", "model: base", "model: base, each: true", "systems 'Pretrained' has 'each', but is one model."),
    ("table1", "tune: [scaling]", "tune: [scaling], tuned_as: A", "has tune and tuned_as; expected one of them."),
    ("table1", "tune: [scaling]", "tune: [scaling], params: {scaling: 1.0}", "gives 'scaling' twice; expected it in"),
    ("table1", "tasks: [asr]", "tasks: [asr, asr]", "tasks is ['asr', 'asr']; expected each value once."),
    ("table1", "train: all", "train: all, params: {}", "has 'params', a field of merges; 'train' makes no merge."),
    ("task_vectors", "[asr]", "[asr]\nagainst: [x]", "has 'against', a field of experiments of kind 'systems'."),
    ("table1", "[asr]", "[asr]\ntasks: [st]", "table1.yaml is not valid YAML: 'tasks' stands twice, line 9."),
    ("table1", "experiment: table1", "experiment: table2", "another file has the experiment 'table2'"),
]
PROFILES = [
    ("dev_clips: 25", "dev_clip: 25", "profiles.yaml: speech has no field 'dev_clip'. Did you mean 'dev_clips'?"),
    ("  sets:\n", "  set:\n", "speech has no field 'set'. Did you mean 'sets'?"),
    ("  corpora:\n", "  corprora:\n", "speech has no field 'corprora'. Did you mean 'corpora'?"),
    ("minutes: 12", "minuts: 12", "speech.training has no field 'minuts'. Did you mean 'minutes'?"),
    ("epochs: 5", "seed: 5", "speech.training has no field 'seed'."),
    ("decoding: {beams", "decoding: {beans", "speech.decoding has no field 'beans'. Did you mean 'beams'?"),
    ("merge_seconds", "merge_second", "speech.here has no field 'merge_second'. Did you mean 'merge_seconds'?"),
    ("{seeds: [0, 1, 2]}", "{seed: [0, 1, 2]}", "speech.of.table1 has no field 'seed'. Did you mean 'seeds'?"),
    ("{seeds: [0, 1, 2]}", "{seeds: [one]}", "speech.of.table1.seeds[0] is 'one'; expected a whole number."),
    ("{seeds: [0, 1, 2]}", "[0, 1, 2]", "speech.of.table1 is [0, 1, 2]; expected fields with values."),
    ("table1: {seeds", "tabel1: {seeds", "speech names an experiment 'tabel1'. Did you mean 'table1'?"),
    ("rates_of: table1", "rates_of: tabel1", "speech names an experiment 'tabel1'. Did you mean 'table1'?"),
    ("rates_of: table1", "rate_of: table1", "speech.of.every_method has no field 'rate_of'."),
    ("seeds: [0]", "seeds: []", "speech.seeds is []; expected at least one."),
    ("seeds: [0]", "seeds: 0", "speech.seeds is 0; expected a list."),
    ("seeds: [0]", "seeds: [-1]", "speech.seeds[0] is -1; expected a number from 0 up."),
    ("seeds: [0]", "seeds: [0, 0]", "speech.seeds is [0, 0]; expected each value once."),
    ("minutes: 12", "minutes: -12", "speech.training.minutes is -12; expected a number above 0."),
    ("minutes: 12", "minutes: .nan", "speech.training.minutes is nan; expected a number above 0."),
    ("epochs: 5", "epochs: 2.5", "speech.training.epochs is 2.5; expected a whole number."),
    ("epochs: 5", "warmup: 2", "speech.training lacks the field 'epochs'."),
    ("dev_clips: 25", "dev_clips: true", "speech.dev_clips is True; expected a whole number."),
    ("test_clips: 120", "test_clips: 0", "speech.of.table7.test_clips is 0; expected a number from 1 up."),
    (RATES, "learning_rates: [3e-5]", "speech.learning_rates[0] is '3e-5'; expected a number above 0; YAML reads 1e-5"),
    (RATES, "learning_rates: 3.0e-5", "speech.learning_rates is 3e-05; expected a list."),
    ("per_second: 2.9", "per_second: 0", "here.train_windows_per_second is 0; expected a number above 0."),
    ("base: whisper-tiny", "base: 3", "speech.base is 3; expected a word"),
    ("set1: [ca,", "set1: [no,", "speech.sets.set1[0] is False; expected a word, in quotes"),
    ("set1: [ca,", "set1: [cat,", "speech has 'cat' in its set 'set1', but no corpora. Did you mean 'ca'?"),
    ("spathi: en, safe", "spahti: en, safe", "speech has a code for 'spahti', but no corpora."),
    ("spathi: en, safe", "spathi: eng, safe", "'uqm/spathi': Corpus 'uqm' has no language 'eng'"),
    ("[uqm/spathi]", "[uqm/spahti]", "'uqm/spahti', which has no domain 'spahti'. Did you mean 'spathi'?"),
    ("en: [asterisk]", "en: [asterix]", "There is no corpus 'asterix'. Did you mean 'asterisk'?"),
    ("bg: [stamps]", "bg: [asterisk]", "Corpus 'asterisk' has no language 'bg'"),
    ("counts: [2,", "counts: [2.5,", "in vary, counts; expected growing whole numbers above 0."),
    ("subsets: [2, 3", "subsets: [3, 2", "in vary, subsets; expected growing whole numbers above 0."),
    ("density: [0.1, 0.2", "density: [0.1, 2", "table1: 'MP-Merging' cannot be merged: mp: density is 2, outside"),
    ("scaling: [0.15", "scaling: [much", "speech.grids.scaling[0] is 'much'; expected a number"),
]


@pytest.mark.parametrize(("file", "old", "new", "message"), TABLES, ids=[f"{t[0]}: {t[2]}" for t in TABLES])
def test_a_mistake_in_an_experiment_is_refused_by_its_name(project, file, old, new, message):
    assert message in refused(project, file, old, new)


@pytest.mark.parametrize(("old", "new", "message"), PROFILES, ids=[p[1].strip() for p in PROFILES])
def test_a_mistake_in_a_profile_is_refused_by_its_name(project, old, new, message):
    assert message in refused(project, "profiles", old, new)


def test_more_domains_than_there_are_make_no_variant(project):
    edit(project / "profiles.yaml", "counts: [2, 4, 6, 8, 9, 10]", "counts: [2, 4, 11]")
    with pytest.raises(StudyError, match=r"domain_count: `vary: counts` has 11, but there are 10 of them"):
        experiments.plan("domain_count", "speech")


@pytest.mark.parametrize("text", ["[1, 2]", "", "table1"], ids=["list", "nothing", "word"])
def test_a_file_without_fields_is_named(project, text):
    (project / "table1.yaml").write_text(text)
    with pytest.raises(StudyError, match=r"table1\.yaml holds .*; expected fields and their values"):
        experiments.experiments()


def test_files_are_read_again_when_they_change_and_only_then(project):
    first = experiments.experiments()
    started = time.perf_counter()
    assert all(experiments.experiments()[name] is table for name, table in first.items())
    assert time.perf_counter() - started < 1
    edit(project / "table1.yaml", "title: Five", "title: Four")
    assert experiments.experiments()["table1"].title.startswith("Four languages")
    first.clear()
    assert "table1" in experiments.experiments()


def test_settings_of_one_experiment_replace_the_profiles(project):
    speech, single = experiments.settings_of("speech"), experiments.settings_of("speech", "table7")
    assert (speech.test_clips, single.test_clips, single.learning_rates) == (None, 120, (3.0e-5,))
    assert single.grids == speech.grids and experiments.settings_of("speech", "table2") is speech


@pytest.mark.parametrize("seeds", [[-1], [0.5], ["0"], [True]])
def test_seeds_from_python(seeds):
    with pytest.raises(StudyError, match="expected whole numbers from 0 up"):
        experiments.plan("table1", "speech", seeds)
