"""One model in the files of several programs: Hugging Face, CTranslate2, whisper.cpp and openai/whisper."""
