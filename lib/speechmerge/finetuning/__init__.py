"""Fine-tuning on any mixture of languages, tasks and domains."""
