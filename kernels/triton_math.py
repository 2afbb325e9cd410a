"""What the Triton kernels are made of: Philox, noise, exponentials, memory of any type.

The mathematics is that of ``csrc/include/manifold_core/*.h``, where the reasons of the formulas stand. All of it works
on tiles of float32 or float64, compiled and in Triton's interpreter.
"""

import math

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)

# Coefficients of (e^r - 1 - r) / r^2 in r, sin(a) / a and cos(a) in a^2, atanh(s) / s in s^2, and of (log(1 + f) - f) /
# f^2 in f: Taylor's in double precision, in single those of csrc/include/manifold_core/special.h.
EXP_32 = tl.constexpr((0.5, 0.16666667163, 0.04166646302, 0.00833336078, 0.00139336870, 0.00019857832))
EXP_64 = tl.constexpr(tuple(1 / math.factorial(k + 2) for k in range(13)))
SIN_32 = tl.constexpr((1.0, -0.166666546059, 0.00833216052645, -0.000195152506062))
SIN_64 = tl.constexpr(tuple((-1) ** k / math.factorial(2 * k + 1) for k in range(11)))
COS_32 = tl.constexpr((1.0, -0.5, 0.0416666456766, -0.00138873159355, 2.44331198773e-5))
COS_64 = tl.constexpr(tuple((-1) ** k / math.factorial(2 * k) for k in range(11)))
ATANH_64 = tl.constexpr(tuple(1 / (2 * k + 1) for k in range(12)))
LOG_32 = tl.constexpr(
    (-0.5, 0.3333391074, -0.2500133704, 0.1996306383, -0.1657758473, 0.149147676, -0.1426748659, 0.08700436432)
)


@triton.jit
def polynomial(coefficients: tl.constexpr, terms: tl.constexpr, x):
    """sum_k c_k x^k by Horner's rule."""
    total = coefficients[terms - 1] * x + coefficients[terms - 2]
    for k in tl.static_range(terms - 3, -1, -1):
        total = total * x + coefficients[k]
    return total


@triton.jit
def exponential(x):
    """(e^x, e^x - 1, e^x - 1 - x), the last two relatively exact near 0. NaN in gives NaN out."""
    if x.dtype == tl.float32:
        y = tl.where(x < -88.0, -88.0, x)
        y = tl.where(y > 88.376, 89.0, y)
        shifted = y * 1.4426950408889634 + 12582912.0  # 1.5 * 2^23: the nearest integer n sits in the low bits
        n = shifted - 12582912.0
        scale = ((shifted.to(tl.int32, bitcast=True) << 23) + 0x3F800000).to(tl.float32, bitcast=True)
        r = (y - n * 0.693359375) - n * -2.12194440e-4
        q = r * r * polynomial(EXP_32, 6, r)
    else:
        y = tl.where(x < -709.0, -709.0, x)
        y = tl.where(y > 709.436, 710.0, y)
        shifted = y * 1.4426950408889634 + 6755399441055744.0  # 1.5 * 2^52
        n = shifted - 6755399441055744.0
        scale = ((shifted.to(tl.int64, bitcast=True) << 52) + 0x3FF0000000000000).to(tl.float64, bitcast=True)
        r = (y - n * 0.69314718036912381649) - n * 1.9082149292705877e-10
        q = r * r * polynomial(EXP_64, 13, r)
    p = r + q
    exp_minus_1 = scale * p + (scale - 1.0)
    return scale * p + scale, exp_minus_1, tl.where(n == 0.0, q, exp_minus_1 - x)


@triton.jit
def exponential_of_half_difference(a, b):
    """e^(d/2), t = e^(d/2) - 1 and s = t - d/2 of d = a - b. The rounding of d, which costs 4e-6 of e^80 in float32, is
    undone."""
    d = a - b
    used = d - a
    lost = (a - (d - used)) - (b + used)
    half_lost = 0.5 * tl.where(lost == lost, lost, 0.0)  # infinities lose nothing
    root, t, s = exponential(0.5 * d)
    most = 3.4028234663852886e38 if d.dtype == tl.float32 else 1.7976931348623157e308
    slope = tl.where(root > most, most, root)  # 0 * infinity would be NaN
    root += slope * half_lost
    t += slope * half_lost
    s += (slope - 1.0) * half_lost
    return root, t, s


@triton.jit
def variance_terms(log_var, prior_log_var):
    """e^(l/2), e^(d/2), t = e^(d/2) - 1, (e^d - 1 - d)/2 and e^(-p/2), with d = l - p. Without a prior p is None, and
    stands for 0."""
    sigma, t, s = exponential(0.5 * log_var)
    root, inv_prior_sigma = sigma, 1.0
    if prior_log_var is not None:
        root, t, s = exponential_of_half_difference(log_var, prior_log_var)
        inv_prior_sigma, _, _ = exponential(-0.5 * prior_log_var)
    # With s = t - d/2; both terms are positive: nothing cancels.
    return sigma, root, t, 0.5 * t * t + s, inv_prior_sigma


@triton.jit
def times_exp_minus_1(k, t):
    """k (e^d - 1) of t = e^(d/2) - 1, with k first: 0 stays 0 even if e^d alone is infinite."""
    return k * t * (t + 2.0)


@triton.jit
def logistic(x):
    """(w, 1 - w) of w = 1 / (1 + e^-x), both relatively exact."""
    small, _, _ = exponential(-tl.abs(x))
    large_part = 1.0 / (1.0 + small)
    small_part = small * large_part
    return tl.where(x < 0.0, small_part, large_part), tl.where(x < 0.0, large_part, small_part)


@triton.jit
def philox4x32_10(c0, c1, c2, c3, k0, k1):
    """Ten rounds of Philox on uint32 tiles. A 64-bit product is one instruction; its two halves were two."""
    for _ in tl.static_range(10):
        p0 = c0.to(tl.uint64) * 0xD2511F53
        p1 = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0
        c1 = p1.to(tl.uint32)
        c2 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c3 = p0.to(tl.uint32)
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def noise_words(seed, row, block):
    """The four words of each block of four columns: seed int64, row uint64, block uint32, of shapes that broadcast."""
    zero = block ^ block
    return philox4x32_10(
        block,
        row.to(tl.uint32),
        (row >> 32).to(tl.uint32),
        zero,  # the stream of noise
        seed.to(tl.uint32),
        (seed >> 32).to(tl.uint32),
    )


@triton.jit
def log_uniform(w, dtype: tl.constexpr):
    """log((w + 1/2) / 2^32). As a signed number w gives u below 1/2, and u - 1 above: exact where u is near 1."""
    v = w.to(tl.int32, bitcast=True).to(dtype) * 2.3283064365386963e-10 + 1.1641532182693481e-10
    u = tl.where(v < 0.0, v + 1.0, v)
    if dtype == tl.float32:
        shifted = u.to(tl.uint32, bitcast=True) - 0x3F3504F3
        exponent = shifted.to(tl.int32, bitcast=True) >> 23
        m = ((shifted & 0x7FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True)
        f = tl.where(exponent == 0, v, m - 1.0)
        e = exponent.to(dtype)
        log = ((e * -2.12194440e-4 + f * f * polynomial(LOG_32, 8, f)) + f) + e * 0.693359375
    else:
        shifted = u.to(tl.int64, bitcast=True) - 0x3FE6A09E667F3BCD
        exponent = shifted >> 52
        m = ((shifted & 0xFFFFFFFFFFFFF) + 0x3FE6A09E667F3BCD).to(tl.float64, bitcast=True)
        f = tl.where(exponent == 0, v, m - 1.0)
        e = exponent.to(dtype)
        s = f / (2.0 + f)
        log_minus_f = 2.0 * s * polynomial(ATANH_64, 12, s * s) - f
        log = ((e * 1.9082149292705877e-10 + log_minus_f) + f) + e * 0.69314718036912381649
    return log


@triton.jit
def flip_sign(x, word):
    """x, or -x if the highest bit of the word is set."""
    bit = word & 0x80000000
    if x.dtype == tl.float32:
        flipped = (x.to(tl.uint32, bitcast=True) ^ bit).to(tl.float32, bitcast=True)
    else:
        flipped = (x.to(tl.uint64, bitcast=True) ^ (bit.to(tl.uint64) << 32)).to(tl.float64, bitcast=True)
    return flipped


@triton.jit
def normal_pair(w0, w1, dtype: tl.constexpr):
    """Box and Muller: r cos(a), r sin(a). The two high bits of w1 + 2^29 are the nearest multiple of pi/2; the low 30
    of w1, with a sign, are the way from there."""
    radius = tl.sqrt(-2.0 * log_uniform(w0, dtype))
    turned = w1 + 0x20000000
    signed = (w1 << 2).to(tl.int32, bitcast=True).to(dtype)
    angle = signed * 3.6572951981678990e-10 + 7.3145903963357981e-10  # pi / 2^33, pi / 2^32
    square = angle * angle
    if dtype == tl.float32:
        sine = angle * polynomial(SIN_32, 4, square)
        cosine = polynomial(COS_32, 5, square)
    else:
        sine = angle * polynomial(SIN_64, 11, square)
        cosine = polynomial(COS_64, 11, square)
    odd = (turned & 0x40000000) != 0
    first = flip_sign(tl.where(odd, sine, cosine), turned + 0x40000000)
    second = flip_sign(tl.where(odd, cosine, sine), turned)
    return radius * first, radius * second


@triton.jit
def noise(seed, first_row, first_col, rows: tl.constexpr, cols: tl.constexpr, dtype: tl.constexpr):
    """Tile [rows, cols] of N(0, 1) numbers; first_row is an int64, first_col a multiple of 4."""
    row = (first_row + tl.arange(0, rows)).to(tl.uint64)
    block = (first_col // 4 + tl.arange(0, cols // 4)).to(tl.uint32)
    w0, w1, w2, w3 = noise_words(seed, row[:, None], block[None, :])
    n0, n1 = normal_pair(w0, w1, dtype)
    n2, n3 = normal_pair(w2, w3, dtype)
    return tl.reshape(tl.join(tl.join(n0, n2), tl.join(n1, n3)), [rows, cols])


@triton.jit
def widen(x, dtype: tl.constexpr):
    """A number of any type in the type of the arithmetic."""
    if INTERPRETED and x.dtype == tl.bfloat16:  # the interpreter mistakes numbers below the smallest normal one
        x = (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return x.to(dtype)


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """The nearest number of that type; on the way to half precision by float32, as torch does it."""
    if dtype == tl.float16 or dtype == tl.bfloat16:
        x = x.to(tl.float32)
    if INTERPRETED and dtype == tl.bfloat16:  # the interpreter cuts off
        bits = x.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return tl.where(x == x, rounded, 0x7FC0).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return x.to(dtype)


@triton.jit
def read(pointer, mask, dtype: tl.constexpr):
    return widen(tl.load(pointer, mask=mask, other=0.0), dtype)


@triton.jit
def read_tile(pointer, row_stride, col_stride, row, col, mask, dtype: tl.constexpr):
    """Elements of a matrix of any strides; row is an int64."""
    return read(pointer + row * row_stride + col.to(tl.int64) * col_stride, mask, dtype)


@triton.jit
def write(pointer, x, mask):
    tl.store(pointer, narrow(x, pointer.dtype.element_ty), mask=mask)
