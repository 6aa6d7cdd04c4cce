"""A llama-like decoder of about 300 million parameters, whole-prompt form, weights in an external file."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import nn

from benchmarks.builders.exporting import export

VOCAB = 32000
HIDDEN = 1024
LAYERS = 16
HEADS = 16
KV_HEADS = 8
HEAD_SIZE = HIDDEN // HEADS
INTERMEDIATE = 4096


class RmsNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HIDDEN))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


def _rotate_half(x: torch.Tensor) -> torch.Tensor:
    half = HEAD_SIZE // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(HIDDEN, HEADS * HEAD_SIZE, bias=False)
        self.k_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_SIZE, bias=False)
        self.v_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_SIZE, bias=False)
        self.o_proj = nn.Linear(HEADS * HEAD_SIZE, HIDDEN, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        query = self.q_proj(x).view(batch, length, HEADS, HEAD_SIZE).transpose(1, 2)
        key = self.k_proj(x).view(batch, length, KV_HEADS, HEAD_SIZE).transpose(1, 2)
        value = self.v_proj(x).view(batch, length, KV_HEADS, HEAD_SIZE).transpose(1, 2)
        query = query * cos + _rotate_half(query) * sin
        key = key * cos + _rotate_half(key) * sin
        key = self.repeat_heads(key, batch, length)
        value = self.repeat_heads(value, batch, length)
        scores = torch.matmul(query, key.transpose(2, 3)) * HEAD_SIZE**-0.5 + mask
        context = torch.matmul(torch.softmax(scores, dim=-1), value)
        return self.o_proj(context.transpose(1, 2).reshape(batch, length, HIDDEN))

    @staticmethod
    def repeat_heads(x: torch.Tensor, batch: int, length: int) -> torch.Tensor:
        shape = (batch, KV_HEADS, HEADS // KV_HEADS, length, HEAD_SIZE)
        return x[:, :, None].expand(shape).reshape(batch, HEADS, length, HEAD_SIZE)


class DecoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm()
        self.self_attn = Attention()
        self.post_attention_layernorm = RmsNorm()
        self.gate_proj = nn.Linear(HIDDEN, INTERMEDIATE, bias=False)
        self.up_proj = nn.Linear(HIDDEN, INTERMEDIATE, bias=False)
        self.down_proj = nn.Linear(INTERMEDIATE, HIDDEN, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        normed = self.post_attention_layernorm(x)
        return x + self.down_proj(nn.functional.silu(self.gate_proj(normed)) * self.up_proj(normed))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, HIDDEN)
        self.layers = nn.ModuleList(DecoderLayer() for _ in range(LAYERS))
        self.norm = RmsNorm()
        self.lm_head = nn.Linear(HIDDEN, VOCAB, bias=False)
        frequencies = 1.0 / (10000.0 ** (torch.arange(0, HEAD_SIZE, 2).float() / HEAD_SIZE))
        self.register_buffer("frequencies", frequencies)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(input_ids.shape[1])
        angles = positions[:, None].float() * self.frequencies[None, :]
        angles = torch.cat((angles, angles), dim=-1)
        visible = (positions[None, :] <= positions[:, None])[None, None] & attention_mask[:, None, None, :].bool()
        mask = torch.where(visible, 0.0, torch.finfo(torch.float32).min)
        hidden = self.embed_tokens(input_ids)
        for layer in self.layers:
            hidden = layer(hidden, angles.cos(), angles.sin(), mask)
        return self.lm_head(self.norm(hidden))


def build_decoder_300m(path: Path) -> None:
    """input_ids, attention_mask: int64 [batch, sequence]; logits: float [batch, sequence, 32000]."""
    generator = torch.Generator().manual_seed(300)
    model = Decoder()
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data.normal_(0.0, layer.in_features**-0.5, generator=generator)
        elif isinstance(layer, nn.Embedding):
            layer.weight.data.normal_(0.0, 1.0, generator=generator)
        elif isinstance(layer, RmsNorm):
            layer.weight.data.uniform_(0.7, 1.3, generator=generator)
    input_ids = torch.randint(0, VOCAB, (2, 16), generator=generator)
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    axes = {name: {0: "batch", 1: "sequence"} for name in (*inputs, "logits")}
    export(model, inputs, ["logits"], axes, path)
    data_path = path.with_suffix(".onnx.data")
    data_path.unlink(missing_ok=True)
    whole = onnx.load(path)
    onnx.save(whole, path, save_as_external_data=True, location=data_path.name, size_threshold=1024)
