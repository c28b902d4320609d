"""Small package trees of the speech corpora, for the tests that join and split them."""

import gzip

import av
import numpy as np
import soundfile

from speechmerge.audio import SAMPLE_RATE

ENGLISH = "; comment: not a prompt\nhello: Hello there.\ndigits/1: one\nletters/at: at [@]\nbeep: [a beep]\n"


def sound(hertz, seconds=1.0, rate=SAMPLE_RATE):
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def write_g722(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="g722") as file:
        stream = file.add_stream("g722", rate=SAMPLE_RATE, layout="mono")
        pcm = (samples * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)


def asterisk_tree(root, language, script, sounds, encoding="utf-8"):
    name = f"asterisk-core-sounds-{language}"
    doc = root / name / f"usr/share/doc/{name}/core-sounds-{language}.txt.gz"
    doc.parent.mkdir(parents=True, exist_ok=True)
    doc.write_bytes(gzip.compress(script.encode(encoding)))
    folder = root / f"{name}-g722/usr/share/asterisk/sounds/voice_f_Test"
    for number, sound_id in enumerate(sounds):
        write_g722(folder / f"{sound_id}.g722", sound(300 + 40 * number, seconds=1.4))


def stamp(root, name, lines, recordings):
    folder = root / "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
    script = folder / f"{name}.txt"
    script.parent.mkdir(parents=True, exist_ok=True)
    if lines:
        script.write_text("\n".join(lines), encoding="utf-8")
    for language, samples in recordings.items():
        soundfile.write(folder / f"{name}_desc_{language}.ogg", samples, 22_050, format="OGG", subtype="VORBIS")
