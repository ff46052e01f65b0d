"""Folders to work in, and tokenizers beside those of Hugging Face's libraries."""

import shutil

import pytest
import tokenizers

from lepjax.data.tokenizer import Tokenizer
from tests.data.encodings import FILES
from tests.data.written import write


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder, to work in, and no LEPJAX_DATA."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEPJAX_DATA", raising=False)
    return tmp_path


@pytest.fixture
def sst2(here):
    write(here / "sst2" / "train.tsv", "sentence\tlabel\na fine film\t1\nbad\t0\nwell made\t1\n")
    write(here / "sst2" / "dev.tsv", "sentence\tlabel\ndull\t0\n")
    return here


@pytest.fixture(scope="session")
def minilm(test_data):
    return test_data / "weights" / "minilm_l6_fp16"


@pytest.fixture(scope="session")
def bert(minilm):
    return Tokenizer.load(minilm)


@pytest.fixture(scope="session")
def bert_reference(minilm):
    """The library's own truncation."""
    return reference(minilm / "tokenizer.json")


def reference(file):
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


@pytest.fixture(scope="session")
def roberta_folder(tmp_path_factory, minilm):
    """A small byte-level vocabulary as RoBERTa's files hold it."""
    folder = tmp_path_factory.mktemp("roberta")
    trained = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    text = (minilm / "vocab.txt").read_text(encoding="utf-8").replace("##", "").split()
    trained.train_from_iterator([" ".join(text[i : i + 20]) for i in range(0, len(text), 20)], 900, 2, False, special)
    trained.save_model(str(folder))
    return folder


@pytest.fixture(scope="session")
def roberta(roberta_folder):
    return Tokenizer.load(roberta_folder)


@pytest.fixture(scope="session")
def roberta_reference(roberta_folder, tmp_path_factory):
    """The same as one file, with a prefix space, as transformers wants it for words."""
    pieces = [str(roberta_folder / name) for name in ("vocab.json", "merges.txt")]
    built = tokenizers.ByteLevelBPETokenizer.from_file(*pieces, add_prefix_space=True)
    ends = [(token, built.token_to_id(token)) for token in ("</s>", "<s>")]
    built._tokenizer.post_processor = tokenizers.processors.RobertaProcessing(*ends)
    path = tmp_path_factory.mktemp("reference") / "tokenizer.json"
    built.save(str(path))
    return reference(path)


@pytest.fixture
def folder(tmp_path, minilm):
    """The files of a BERT tokenizer, to be broken."""
    for name in FILES:
        shutil.copy(minilm / name, tmp_path / name)
        (tmp_path / name).chmod(0o644)
    return tmp_path
