"""The hand-derived gradient of a stack: one forward and backward pass over a batch, in torch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sk_bnreg.engine.dropout import Dropout
from sk_bnreg.engine.embedding import EmbeddingPass
from sk_bnreg.engine.functions import ACTIVATIONS, StackedLoss
from sk_bnreg.engine.stack import Layer, StackedMLP


class TrainingPass:
    """One forward and backward pass over a batch of every member.

    Writes the gradient of the summed member losses to ``stack.theta.grad`` and moves the
    running statistics. It holds views of the stack's tensors: build a new one when the
    members change.

    Parameters
    ----------
    stack : StackedMLP
    loss : StackedLoss
    dropout : Dropout or None
        Draws the masks of the hidden activations.
    """

    def __init__(self, stack: StackedMLP, loss: StackedLoss, dropout: Dropout | None = None):
        if stack.theta.grad is None:
            stack.theta.grad = torch.zeros_like(stack.theta)
        self.stack = stack
        self.loss = loss
        self.dropout = dropout
        self.activation = ACTIVATIONS[stack.activation]
        self.value, self.grad = stack.layers(stack.theta.data), stack.layers(stack.theta.grad)
        hidden = zip(self.value[:-1], self.grad[:-1], strict=True)
        units = [(value.scale, (grad.scale, grad.shift)) for value, grad in hidden if value.scale is not None]
        self.normalisation = None
        if stack.normalisation is not None:
            scales, grads = zip(*units, strict=True)
            self.normalisation = stack.normalisation.training_pass(scales, grads, stack.running_statistics())
        self.buffers: dict[int, _Buffers] = {}
        pairs = zip(*(stack.blocks(flat)["embeddings"] for flat in (stack.theta.data, stack.theta.grad)), strict=True)
        self.embedding = next((EmbeddingPass(value, grad, stack.piecewise) for value, grad in pairs), None)

    def __call__(self, x: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """Return each member's mean loss over its rows, ``(M,)``.

        Parameters
        ----------
        x : Tensor of shape (M, D, B)
        target : Tensor of shape (M, C, B) or (M, B)
        weight : Tensor of shape (M, B) or None
            Row weights, which also weigh the moments of batch norm; None for ones.
        """
        n_features, n_rows = x.shape[1:]
        if self.embedding is not None:
            x = torch.cat([x, self.embedding.forward(x[:, self.stack.embedded])], dim=1)
        # batches have two sizes at most: the last one's too
        if n_rows not in self.buffers:
            self.buffers[n_rows] = _Buffers(self.value, n_rows)
        buffers = self.buffers[n_rows]
        share = None if weight is None else (weight / weight.sum(1, keepdim=True))[:, None]  # (M, 1, B)
        masks = None if self.dropout is None else self.dropout.draw(n_rows)
        *hidden, last = self.value
        inputs, before, after = [x], [], []
        for layer, value in enumerate(hidden):
            z = torch.bmm(value.weight, inputs[-1], out=buffers.linear[layer])
            if self.normalisation is not None:
                z = self.normalisation.forward(layer, z, share, buffers.normalised[layer])
            before.append(z.add_(value.shift))
            after.append(self.activation.forward(before[layer]))
            inputs.append(after[layer] if masks is None else after[layer] * masks[layer])
        outputs = torch.bmm(last.weight, inputs[-1]).add_(last.shift)  # (M, C, B)

        row_loss = self.loss(outputs, target)  # (M, B)
        delta = self.loss.gradient(outputs, target)  # (M, C, B)
        if share is None:
            loss = row_loss.sum(1).div_(n_rows)
            delta.div_(n_rows)
        else:
            loss = (row_loss * share[:, 0]).sum(1)
            delta.mul_(share)

        for layer, (value, grad) in reversed([*enumerate(zip(self.value, self.grad, strict=True))]):
            if layer < len(hidden):
                if masks is not None:
                    delta.mul_(masks[layer])
                delta = self.activation.backward(delta, before[layer], after[layer])
            # the gradient at the shift is a sum over rows; a normalisation makes it on the way to its own
            if self.normalisation is None or layer == len(hidden):
                torch.sum(delta, 2, keepdim=True, out=grad.shift)
            else:
                delta = self.normalisation.backward(layer, delta, buffers.linear[layer], share)
            torch.bmm(delta, inputs[layer].mT, out=grad.weight)
            if layer:
                delta = torch.bmm(value.weight.mT, delta, out=buffers.delta[layer - 1])  # (M, H, B)
            elif self.embedding is not None:  # below the first layer only embeddings have a gradient
                self.embedding.backward(torch.bmm(value.weight[:, :, n_features:].mT, delta))
        if self.normalisation is not None:
            self.stack.n_steps += 1
            self.normalisation.end_step(self.stack.n_steps)
        return loss


class _Buffers:
    """What a pass over `n_rows` rows writes: allocated once, since each step would pay for fresh pages."""

    def __init__(self, layers: Sequence[Layer], n_rows: int):
        def empty() -> list[Tensor]:
            return [layer.weight.new_empty(*layer.weight.shape[:2], n_rows) for layer in layers[:-1]]

        self.linear, self.delta = empty(), empty()
        self.normalised = [] if layers[0].scale is None else empty()
