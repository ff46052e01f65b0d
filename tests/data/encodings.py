"""What tests of tokenizers share."""

FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json")


def rows(encoded):
    return [encoded[i].tolist() for i in range(len(encoded))]
