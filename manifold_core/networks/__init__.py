"""Encoders and decoders of the paper (Appendix A). An encoder returns (mu, log_var), or with full covariance
(mu, tril); a decoder returns x̂. Those of a CVAE take the condition beside it; for sequences the condition is the steps
before."""

from .lstm import LSTMDecoder, LSTMEncoder, NextStepEncoder
from .mlp import Activation, ConditionalMLPDecoder, ConditionalMLPEncoder, MLPDecoder, MLPEncoder
from .normalisation import BatchNorm2d
from .precision import Float32ConvTranspose2d, Float32Linear
from .residual import ConditionalConvDecoder, ConditionalConvEncoder, ConvDecoder, ConvEncoder
from .served import by_pytorch

__all__ = [
    "Activation",
    "BatchNorm2d",
    "ConditionalConvDecoder",
    "ConditionalConvEncoder",
    "ConditionalMLPDecoder",
    "ConditionalMLPEncoder",
    "ConvDecoder",
    "ConvEncoder",
    "Float32ConvTranspose2d",
    "Float32Linear",
    "LSTMDecoder",
    "LSTMEncoder",
    "MLPDecoder",
    "MLPEncoder",
    "NextStepEncoder",
    "by_pytorch",
]
