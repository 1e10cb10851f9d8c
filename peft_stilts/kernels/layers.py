"""XLM-R's and PEFT's modules with their forward passes made of fused ops; parameters, names and weights stay theirs."""

from __future__ import annotations

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from torch.nn.functional import gelu, linear
from transformers.models.xlm_roberta import modeling_xlm_roberta as xlmr

from peft_stilts.kernels.dropout import draw_seed


class FusedOutput(xlmr.XLMRobertaOutput):
    """The end of an attention or feed-forward block: dense map, then dropout, residual and LayerNorm in one op."""

    def forward(self, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
        x, norm = self.dense(hidden_states), self.LayerNorm
        p = self.dropout.p if self.training else 0.0
        width = x.shape[-1]
        y = self.ops.residual_norm(x.reshape(-1, width), input_tensor.reshape(-1, width), norm.weight, norm.bias,
                                   norm.eps, p, draw_seed() if p else 0)
        return y.view(input_tensor.shape)


class FusedIntermediate(xlmr.XLMRobertaIntermediate):
    """The wide map of a feed-forward block: bias and GELU in one op. (With an adapter on the map, GELU alone.)"""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if type(self.dense) is not nn.Linear:
            return gelu(self.dense(hidden_states))
        x = linear(hidden_states, self.dense.weight)
        return self.ops.bias_gelu(x.view(-1, x.shape[-1]), self.dense.bias).view(x.shape)


class FusedLora(LoraLinear):
    """PEFT's map under LoRA adapters, all of which are added to the base map's result in one op."""

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        if self.lora_variant or self.disable_adapters or self.merged or kwargs:    # DoRA, and PEFT's own switches
            return super().forward(x, *args, **kwargs)
        rows = x.reshape(-1, x.shape[-1])       # 2-D first: of a view, autograd would copy the gradient of the sum
        if torch.is_autocast_enabled(x.device.type):
            rows = rows.to(torch.get_autocast_dtype(x.device.type))     # once, for the base map and the adapters
        result = self.base_layer(rows)
        names = [name for name in self.active_adapters if name in self.lora_A]
        trained = [name for name in names if self.lora_A[name].weight.requires_grad]
        frozen = [name for name in names if name not in trained]
        if len(trained) > 1:
            raise AssertionError(f"{', '.join(trained)} are trained at once; a stack trains one adapter")
        a = b = None
        scale = p = 0.0
        for name in trained:
            a, b, scale = self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
            p = getattr(self.lora_dropout[name], "p", 0.0) if self.training else 0.0
        below = self.frozen_maps(frozen, rows.dtype) if frozen else (None, None)
        result = self.ops.add_lora_(result, rows, *below, a, b, scale, p, draw_seed() if p else 0)
        return result.view(*x.shape[:-1], -1)

    def frozen_maps(self, names: list[str], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """The A's of frozen adapters one under the other, and their B's times their scales side by side, in `dtype`:
        made once, and again when a weight is changed or moved."""
        weights = [self.lora_A[name].weight for name in names], [self.lora_B[name].weight for name in names]
        key = dtype, [(self.scaling[name], *((weight.data_ptr(), weight._version) for weight in both))
                      for name, *both in zip(names, *weights)]
        if self.__dict__.get("frozen", (None,))[0] != key:
            with torch.no_grad():
                scaled = [weight * self.scaling[name] for name, weight in zip(names, weights[1])]
                self.__dict__["frozen"] = key, (torch.cat(weights[0]).to(dtype), torch.cat(scaled, dim=1).to(dtype))
        return self.__dict__["frozen"][1]


class FusedDropout(nn.Dropout):
    """Dropout without a stored mask."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or not self.p:
            return x
        return self.ops.dropout(x.reshape(-1, x.shape[-1]), self.p, draw_seed()).view(x.shape)


FUSED = {xlmr.XLMRobertaSelfOutput: FusedOutput, xlmr.XLMRobertaOutput: FusedOutput,
         xlmr.XLMRobertaIntermediate: FusedIntermediate, LoraLinear: FusedLora}
"""Module of a library -> the one that computes the same with fused ops."""
