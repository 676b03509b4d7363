"""Text for the language model and the translation model."""

PAD, BOS, EOS = 0, 1, 2  # tokens of every translation: padding, before and after a sentence
