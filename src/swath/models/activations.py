"""Activations by name: what makes a network more than one linear map."""

from __future__ import annotations

from torch import nn

from swath.registry import Activation

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "linear": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def activated(name: Activation) -> nn.Module:
    """The activation of that name, element by element.

    `linear` is none; sigmoid 1 / (1 + exp(-z)); softplus log(1 + exp(z)); leaky_relu 0.01 z below
    0; elu exp(z) - 1 below 0.

    Source:
        Nair, Hinton: Rectified Linear Units, ICML 2010 (relu);
        Dugas et al.: Incorporating Second-Order Functional Knowledge, NIPS 2000 (softplus);
        Maas, Hannun, Ng: Rectifier Nonlinearities, ICML 2013 (leaky_relu);
        Clevert, Unterthiner, Hochreiter: ELU, ICLR 2016 (arXiv:1511.07289), equation 15;
        Hendrycks, Gimpel: GELU, 2016 (arXiv:1606.08415);
        Elfwing, Uchibe, Doya: SiLU, 2017 (arXiv:1702.03118).
    """
    return ACTIVATIONS[name]()
