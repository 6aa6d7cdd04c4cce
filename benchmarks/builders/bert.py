"""BERT encoders (base, and the six-layer MiniLM) with symbolic batch and sequence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks.builders.exporting import export, scatter_norms

VOCAB = 30522


@dataclass(frozen=True)
class BertSize:
    layers: int
    hidden: int
    heads: int
    intermediate: int
    seed: int


BERT_BASE = BertSize(layers=12, hidden=768, heads=12, intermediate=3072, seed=12)
MINILM_L6 = BertSize(layers=6, hidden=384, heads=12, intermediate=1536, seed=6)


class Embeddings(nn.Module):
    def __init__(self, size: BertSize) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCAB, size.hidden)
        self.position_embeddings = nn.Embedding(512, size.hidden)
        self.token_type_embeddings = nn.Embedding(2, size.hidden)
        self.LayerNorm = nn.LayerNorm(size.hidden, eps=1e-12)
        self.register_buffer("position_ids", torch.arange(512).expand((1, -1)))

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        positions = self.position_ids[:, : input_ids.size(1)]
        summed = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        return self.LayerNorm(summed + self.position_embeddings(positions))


class SelfAttention(nn.Module):
    def __init__(self, size: BertSize) -> None:
        super().__init__()
        self.heads = size.heads
        self.head_size = size.hidden // size.heads
        self.query = nn.Linear(size.hidden, size.hidden)
        self.key = nn.Linear(size.hidden, size.hidden)
        self.value = nn.Linear(size.hidden, size.hidden)

    def split_heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.view((*x.size()[:-1], self.heads, self.head_size)).permute(0, 2, 1, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        query = self.split_heads(self.query(x))
        key = self.split_heads(self.key(x))
        value = self.split_heads(self.value(x))
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(self.head_size)
        weights = torch.softmax(scores + mask, dim=-1)
        context = torch.matmul(weights, value).permute(0, 2, 1, 3).contiguous()
        return context.view((*context.size()[:-2], self.heads * self.head_size))


class AttentionOutput(nn.Module):
    def __init__(self, channels_in: int, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(channels_in, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=1e-12)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dense(x) + residual)


class Layer(nn.Module):
    def __init__(self, size: BertSize) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {"self": SelfAttention(size), "output": AttentionOutput(size.hidden, size.hidden)}
        )
        self.intermediate = nn.Linear(size.hidden, size.intermediate)
        self.output = AttentionOutput(size.intermediate, size.hidden)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.attention["output"](self.attention["self"](x, mask), x)
        return self.output(nn.functional.gelu(self.intermediate(x)), x)


class Encoder(nn.Module):
    def __init__(self, size: BertSize) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(size) for _ in range(size.layers))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        for layer in self.layer:
            x = layer(x, mask)
        return x


class Bert(nn.Module):
    def __init__(self, size: BertSize) -> None:
        super().__init__()
        self.embeddings = Embeddings(size)
        self.encoder = Encoder(size)
        self.pooler = nn.Linear(size.hidden, size.hidden)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mask = attention_mask[:, None, None, :].to(torch.float32)
        mask = (1.0 - mask) * torch.finfo(torch.float32).min
        hidden = self.encoder(self.embeddings(input_ids, token_type_ids), mask)
        return hidden, torch.tanh(self.pooler(hidden[:, 0]))


def _initialise(model: Bert, generator: torch.Generator) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data.normal_(0.0, layer.in_features**-0.5, generator=generator)
            layer.bias.data.normal_(0.0, 0.02, generator=generator)
        elif isinstance(layer, nn.Embedding):
            layer.weight.data.normal_(0.0, 0.05, generator=generator)
    scatter_norms(model, generator)


def _build(size: BertSize, path: Path) -> None:
    generator = torch.Generator().manual_seed(size.seed)
    model = Bert(size)
    _initialise(model, generator)
    export_module(model, path, generator)


def export_module(model: Bert, path: Path, generator: torch.Generator | None = None) -> None:
    """Writes an encoder with free batch and sequence."""
    shape = (2, 16)
    inputs = {
        "input_ids": torch.randint(0, VOCAB, shape, generator=generator),
        "attention_mask": torch.ones(shape, dtype=torch.int64),
        "token_type_ids": torch.zeros(shape, dtype=torch.int64),
    }
    axes = {name: {0: "batch", 1: "sequence"} for name in (*inputs, "last_hidden_state")}
    axes["pooler_output"] = {0: "batch"}
    export(model, inputs, ["last_hidden_state", "pooler_output"], axes, path)


def build_bert_base(path: Path) -> None:
    """int64 [batch, sequence] three times; last_hidden_state [batch, sequence, 768], pooler_output [batch, 768]."""
    _build(BERT_BASE, path)


def build_minilm_l6(path: Path) -> None:
    """As BERT-base with 384 features, six layers and twelve heads of 32."""
    _build(MINILM_L6, path)
