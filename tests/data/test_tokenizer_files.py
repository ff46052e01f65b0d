"""Files of tokenizers: RoBERTa's and GPT-2's, special tokens by other names, and damaged ones."""

import shutil

import pytest
import tokenizers

from lepjax.core.errors import UserError
from lepjax.data.tokenizer import Tokenizer
from tests.data.encodings import rows


def test_roberta_files(roberta, roberta_folder):
    ids = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])}
    assert [roberta.cls, roberta.pad, roberta.sep, roberta.unk, roberta.mask] == list(ids.values())
    assert roberta.special_ids == (0, 1, 2, 3, 4) and roberta.size == 900
    single, pair = roberta.encode(["hello"]), roberta.encode(["hello"], ["you"])
    assert single[0][0] == 0 and single[0][-1] == 2
    text = single[0][1:-1].tolist()
    assert pair[0].tolist()[: len(text) + 3] == [0, *text, 2, 2] and not pair.type_ids.any()
    assert rows(roberta.encode(["a <mask>"]))[0][-2] == 4
    assert roberta.decode(single[0]) == "hello"
    assert [file.name for file in roberta.files] == ["vocab.json", "merges.txt"]


def test_gpt2_files(test_data):
    gpt2 = Tokenizer.load(test_data / "tokenizers" / "gpt2")
    assert gpt2.size == 50257 and gpt2.special_ids == (50256,)
    assert (gpt2.cls, gpt2.sep, gpt2.mask, gpt2.unk, gpt2.pad) == (None, None, None, None, 0)
    assert rows(gpt2.encode(["Hello world"])) == [[15496, 995]]
    assert gpt2.encode(["Hello"], [" world"]).ids.tolist() == [15496, 995]
    assert gpt2.decode([15496, 995]) == "Hello world"


def test_a_word_that_nothing_stands_for(tmp_path):
    bare = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1}, []))
    bare.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    assert rows(tokenizer.encode_words([["a", "ab"], []])) == [[0, 0, 1], []]
    with pytest.raises(UserError, match="words: no token stands for the word 'z', and there is no unknown token"):
        tokenizer.encode_words([["a", "z"]])


def test_special_tokens_by_other_names(folder):
    (folder / "special_tokens_map.json").write_text('{"cls_token": {"content": "[unused1]"}, "sep_token": "[SEP]"}')
    (folder / "tokenizer_config.json").write_text("{}")
    assert (Tokenizer.load(folder).cls, Tokenizer.load(folder).sep) == (2, 102)


DAMAGE = {
    "tokenizer.json cut": ("tokenizer.json", lambda data: data[:5000], "tokenizer.json: is damaged"),
    "tokenizer.json empty": ("tokenizer.json", lambda data: b"", "tokenizer.json: is damaged"),
    "tokenizer.json other": ("tokenizer.json", lambda data: b'{"a": 1}', "tokenizer.json: is damaged"),
    "config cut": ("tokenizer_config.json", lambda data: data[:50], "tokenizer_config.json: is no JSON"),
    "map list": ("special_tokens_map.json", lambda data: b"[]", "special_tokens_map.json: is no JSON object"),
    "vocab empty": ("vocab.txt", lambda data: b"", "vocab.txt: no [UNK] among 0 word pieces"),
    "vocab cut": ("vocab.txt", lambda data: data[:600], "vocab.txt: no [UNK] among"),
    "vocab bytes": ("vocab.txt", lambda data: b"[PAD]\n\xff\n", "vocab.txt line 2: byte 0xff is not UTF-8"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files(folder, name):
    file, damage, message = DAMAGE[name]
    if file == "vocab.txt":
        (folder / "tokenizer.json").unlink()
    (folder / file).write_bytes(damage((folder / file).read_bytes()))
    refused(folder, f"{folder}/{message}")


def refused(folder, message):
    with pytest.raises(UserError) as error:
        Tokenizer.load(folder)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_damaged_roberta_files(roberta_folder, tmp_path):
    shutil.copytree(roberta_folder, tmp_path / "r")
    (tmp_path / "r" / "vocab.json").write_text('["a"]')
    refused(tmp_path / "r", f"{tmp_path}/r/vocab.json: is no JSON object")
    (tmp_path / "r" / "vocab.json").write_text('{"a": "b"}')
    refused(tmp_path / "r", f"{tmp_path}/r/vocab.json: is no vocabulary")
    (tmp_path / "r" / "vocab.json").write_text('{"a": 0}')
    refused(tmp_path / "r", f"{tmp_path}/r/merges.txt: is damaged")
    (tmp_path / "r" / "merges.txt").unlink()
    refused(
        tmp_path / "r", f"{tmp_path}/r: no tokenizer. Copy tokenizer.json, vocab.txt, or vocab.json with merges.txt"
    )
    refused(tmp_path / "none", f"{tmp_path}/none (no such folder): no tokenizer")


def test_the_digest_tells_files_apart(folder, bert):
    assert Tokenizer.load(folder).digest == bert.digest
    (folder / "tokenizer_config.json").write_text("{}")
    assert Tokenizer.load(folder).digest != bert.digest
