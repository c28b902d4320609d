"""The base models: where they come from, how they become Hugging Face folders, and how their tensors are read."""
