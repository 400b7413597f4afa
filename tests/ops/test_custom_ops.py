"""The custom ops called by themselves, past the checks of the functions around them: what would
lead a kernel out of its tensors is refused."""

import importlib
import pkgutil

import numpy as np
import pytest
import torch

import pdrec_fast.ops
from pdrec_fast.build_info import extension
from pdrec_fast.operands import SasrecBlock
from pdrec_fast.ops.denoising._blocks import most_blocks

needs_extension = pytest.mark.skipif(extension is None, reason="pdrec_fast._C is not built")

TOKENS, ITEMS, WIDTH = 9, 20, 6
# On tensors of a GPU, where to look at numbers would be to wait; on a CPU under the interpreter.
ON_TRITON = {"hidden_chain", "noisy_input", "noisy_projection", "noisy_projection_backward"}
ON_TRITON |= {"pool_draws", "select_projected", "table_gradient_rows"}
# Operations of torch, which checks indices itself; those of whole tensors take none.
OF_TORCH = {"corpus_cross_entropy", "corpus_error_dense", "corpus_error_gram", "packed_gru"}
OF_TORCH |= {"corpus_cross_entropy_blocks", "corpus_cross_entropy_blocks_backward", "tanh_error"}
WITHOUT_INDICES = {"corpus_gradient", "packed_gru_backward", "input_projection"}
WITHOUT_INDICES |= {"corpus_layer", "normal_likelihood"}


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def candidates(n=3):
    items = (ITEMS - 1 - torch.arange(TOKENS * n).view(TOKENS, n)) % ITEMS
    return {"states": normal(TOKENS, WIDTH), "table": normal(ITEMS, WIDTH), "items": items}


COSINE = {"similarity": "cosine", "temperature": 5.0, "learned": None}
BLOCKS = {"half": False, "of_states": True, "of_table": True}
WORDS = {
    "indptr": torch.tensor([0, 4, 4, TOKENS]),
    "users": torch.tensor([3, 1, 2]),
    **{"p": 0.3, "seed": 1, "epoch": 2, "stream": 3},
}
BIASES = {
    "distance": normal(4),
    "time": normal(6),
    "times": torch.arange(TOKENS).double(),
    "begins": torch.arange(6).double(),
}


def logit_gradients():
    gradients = {"grad_dot": normal(TOKENS, 3), "grad_item": normal(TOKENS, 3)}
    return candidates() | gradients | {"grad_state": normal(TOKENS)}


def heads(*names):
    return {name: normal(TOKENS, 2, 3) for name in names}


def block():
    d = WIDTH
    shapes = dict.fromkeys(SasrecBlock._fields, (d,))
    shapes |= {name: (d, d) for name in shapes if name.endswith("weight")}
    shapes |= {"in_weight": (3 * d, d), "in_bias": (3 * d,)}
    return WORDS | {name: normal(*shapes[name]) for name in SasrecBlock._fields} | {"heads": 2}


def block_states():
    kept = torch.ones(TOKENS, WIDTH, dtype=torch.uint8)
    return {"states": normal(8 * TOKENS * WIDTH), "statistics": normal(8 * TOKENS), "kept": kept}


def corpus_blocks():
    scales = torch.ones(most_blocks(ITEMS, WIDTH), TOKENS)
    return {"exponentials": normal(TOKENS * ITEMS), "scales": scales}


def valid(name):
    """Arguments by name, in the order of the op's."""
    one, weights = torch.ones(()), torch.ones(TOKENS)
    x = {"x": normal(TOKENS, WIDTH)}
    negatives = {"negatives": torch.arange(5), "offsets": torch.zeros(5), "weights": weights}
    layer = {"hidden": normal(TOKENS, WIDTH), "item_out": normal(ITEMS, WIDTH)}
    target = {"rows": torch.arange(3), "items": torch.arange(3), "values": torch.ones(3)}
    corpus = layer | {"item_bias": normal(ITEMS)} | target
    categories = {"of_item": torch.arange(ITEMS) % 2, "of_width": torch.arange(WIDTH) // 3}
    gru = {"in_weight": normal(12, WIDTH), "weight": normal(12, 4)}
    gru |= {"in_bias": normal(12), "bias": normal(12)}
    bce = {"weights": torch.ones(TOKENS, 3), "n_positives": 1}
    return {
        "item_logits": lambda: candidates() | COSINE | {"bias": normal(ITEMS)},
        "weighted_bce": lambda: candidates() | bce | COSINE | {"sparse_grad": False},
        "sampled_softmax": lambda: (
            candidates() | {"weights": weights} | COSINE | {"sparse_grad": False}
        ),
        "shared_softmax": lambda: (
            candidates() | negatives | COSINE | BLOCKS | {"sparse_grad": False}
        ),
        "corpus_softmax": lambda: candidates(1) | {"weights": weights} | COSINE | BLOCKS,
        "states_gradient": lambda: {"grad_loss": one} | logit_gradients(),
        "table_gradient": lambda: {"grad_loss": one} | logit_gradients(),
        "packed_attention": lambda: heads("q", "k", "v") | WORDS,
        "packed_attention_backward": lambda: (
            heads("grad_out", "q", "k", "v") | {"softmax": torch.ones(2, TOKENS, 2)} | WORDS
        ),
        "biased_attention": lambda: heads("q", "k", "v") | WORDS | BIASES | {"pointwise": False},
        "biased_attention_backward": lambda: (
            heads("grad_out", "q", "k", "v")
            | {"softmax": torch.ones(2, TOKENS, 2)}
            | WORDS
            | BIASES
            | {"pointwise": False}
        ),
        "packed_dropout": lambda: x | WORDS,
        "sasrec_block": lambda: x | block() | {"keep": True},
        "sasrec_block_backward": lambda: (
            {"grad_out": normal(TOKENS, WIDTH)} | x | block() | block_states()
        ),
        "corpus_cross_entropy": lambda: corpus,
        "corpus_cross_entropy_blocks": lambda: corpus | categories,
        "corpus_cross_entropy_blocks_backward": lambda: (
            {"grad_losses": weights} | layer | target | categories | corpus_blocks()
        ),
        "tanh_error": lambda: corpus,
        "corpus_error_dense": lambda: corpus,
        "corpus_error_gram": lambda: corpus,
        "packed_gru": lambda: x | {"sizes": torch.tensor([4, 3, 2])} | gru,
    }[name]()


def schemas():
    for module in pkgutil.walk_packages(pdrec_fast.ops.__path__, "pdrec_fast.ops."):
        importlib.import_module(module.name)
    prefix = "pdrec_fast::"
    names = torch._C._dispatch_get_all_op_names()
    names = sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))
    return {name: getattr(torch.ops.pdrec_fast, name).default._schema for name in names}


# Tests register some of their own.
ALL = {name: schema for name, schema in schemas().items() if not name.startswith("test_")}
IN_CPP = sorted(set(ALL) - ON_TRITON - OF_TORCH - WITHOUT_INDICES)
every_op = pytest.mark.parametrize("name", [*IN_CPP, *sorted(OF_TORCH)])
in_cpp = pytest.mark.parametrize("name", IN_CPP)
REFUSED = ValueError, IndexError, RuntimeError, TypeError


def call(name, arguments):
    return getattr(torch.ops.pdrec_fast, name)(*arguments.values())


@needs_extension
@every_op
def test_the_arguments_are_valid(name):
    arguments = valid(name)
    names = [argument.name for argument in ALL[name].arguments if argument.name != "impl"]
    assert list(arguments) == names
    outputs = call(name, arguments)
    for output in outputs if isinstance(outputs, tuple) else (outputs,):
        assert not output.isnan().any()


# What a message calls the numbers of a tensor: positives are a column of candidates.
CALLED = {"indptr": "indptr", "users": "users", "items": "items", "negatives": "negatives"}


@needs_extension
@in_cpp
def test_numbers_out_of_range(name):
    indices = [n for n, x in valid(name).items() if getattr(x, "dtype", None) == torch.int64]
    assert indices
    least = {"items": -1}
    for argument in indices:
        # torch reads the index 2^31 as well as any; as int32 it would be another item.
        for number in (least.get(argument, 0) - 1, 2**33, 2**31, -(2**62)):
            if argument == "users" and 0 <= number < 2**32:
                continue
            arguments = valid(name)
            tensor = arguments[argument] = arguments[argument].clone()
            tensor.view(-1)[1] = number
            with pytest.raises(ValueError, match=f"{CALLED[argument]} must"):
                call(name, arguments)


@pytest.mark.parametrize("name", sorted(OF_TORCH))
def test_numbers_out_of_range_are_refused_by_torch(name):
    for argument, value in valid(name).items():
        if getattr(value, "dtype", None) != torch.int64:
            continue
        for number in (-(2**40), 2**40):
            arguments = valid(name)
            arguments[argument] = value.clone()
            arguments[argument][1] = number
            with pytest.raises((IndexError, RuntimeError)):
                call(name, arguments)


@needs_extension
@in_cpp
def test_tensors_of_another_length(name):
    """Nothing is read that is not there."""
    for argument, value in valid(name).items():
        if not isinstance(value, torch.Tensor) or not value.ndim:
            continue
        arguments = valid(name)
        arguments[argument] = value[:-1].contiguous()
        if (name, argument) in HARMLESS:
            call(name, arguments)
            continue
        with pytest.raises(REFUSED):
            call(name, arguments)


# The last of these rows is not asked for, or is a gradient that the other function takes; larger
# distances than there are biases take the last.
HARMLESS = {("states_gradient", "grad_item"), ("table_gradient", "grad_state")}
HARMLESS |= {("biased_attention", "distance"), ("biased_attention_backward", "distance")}


@needs_extension
@in_cpp
def test_misaligned_tensors(name):
    for argument, value in valid(name).items():
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32 or not value.ndim:
            continue
        memory = np.zeros(value.nbytes + 1, np.uint8)
        shifted = torch.frombuffer(memory, dtype=torch.float32, count=value.numel(), offset=1)
        arguments = valid(name) | {argument: shifted.view(value.shape).copy_(value)}
        if (name, argument) in COPIED:
            call(name, arguments)
            continue
        with pytest.raises(ValueError, match="begins at an address that is no multiple of 4"):
            call(name, arguments)


# Not read, or padded on the way.
COPIED = {("states_gradient", "grad_item"), ("table_gradient", "grad_state")}
COPIED |= {("corpus_softmax", "states"), ("corpus_softmax", "table")}
