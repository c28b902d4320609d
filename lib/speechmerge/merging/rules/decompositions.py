"""Singular vectors, polar factors and Newton–Schulz orthogonalisation, batched over leading dimensions."""

import torch
from torch import Tensor

from ...errors import MethodError

DEPENDENT = 1e-5  # σ_k / σ_1 below which squaring the matrix costs too many digits and a full SVD is taken
LARGE = 256  # shorter side from which on fp32 is tried first
CLOSE = 0.1  # σ_k / σ_1 down to which fp32 squares of a matrix tell its singular vectors well enough
OVERSAMPLING = 32  # vectors beyond those wanted, so that the last wanted ones are exact too
NARROW = 1e-4  # of the largest eigenvalue: a smaller gap between two is taken to be this wide
RESIDUAL = 1e-9  # of the largest eigenvalue; leaves the truncated matrix a relative error of about the same
COEFFICIENTS = {  # (a, b, c) of each step s → a·s + b·s³ + c·s⁵ on the singular values
    "quintic": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
    "muon": ((3.4445, -4.7750, 2.0315),) * 5,
    "polar_express": (
        (8.156554524902461, -22.48329292557795, 15.878769915207462),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    ),
}


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the thin SVD ``U [..., m, r], σ [..., r], V [..., n, r]`` in fp64.

    Should LAPACK not converge, the matrix is disturbed by 1e-8 of its norm, always the same way, and tried again.

    Raises:
        MethodError: it does not converge then either.
    """
    double = matrix.double()
    generator = torch.Generator(device=double.device).manual_seed(0)
    for attempt in (0, 1):
        try:
            u, s, vh = torch.linalg.svd(double, full_matrices=False)
        except torch.linalg.LinAlgError as error:
            if attempt:
                raise MethodError(
                    f"the SVD of a matrix of shape {list(matrix.shape)} does not converge ({error}); look at the "
                    "expert's weights for extreme values, or leave the tensor out with include."
                ) from error
            noise = torch.randn(double.shape, generator=generator, dtype=double.dtype, device=double.device)
            double = double + 1e-8 * torch.linalg.matrix_norm(double, keepdim=True) * noise / noise.norm()
        else:
            return u, s, vh.mT
    raise AssertionError("unreachable")


def leading(matrix: Tensor, rank: int, vectors: Tensor | None = None) -> Tensor:
    """Return the best approximation of rank ``rank``, U_k Σ_k V_kᵀ, in fp64 and without a full SVD.

    The leading singular vectors of the shorter side are the leading eigenvectors of the smaller Gram matrix; projecting
    on them gives the truncated SVD. Squaring loses singular values below 1e-8 of the largest, which never lead.

    Args:
        matrix: shape ``[..., m, n]``.
        rank: 0 to min(m, n).
        vectors: :func:`singular_vectors` of the matrix, if already known.

    Returns:
        Shape ``[..., m, n]``.
    """
    double = matrix.double()
    if rank <= 0:
        return torch.zeros_like(double)
    if rank >= min(matrix.shape[-2:]):
        return double.clone()
    basis = (_leading_vectors(_wide(matrix), rank) if vectors is None else vectors[..., :rank]).double()
    tall = matrix.shape[-2] > matrix.shape[-1]
    return (double @ basis) @ basis.mT if tall else basis @ (basis.mT @ double)


def _wide(matrix: Tensor) -> Tensor:
    return matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT


def singular_vectors(matrix: Tensor) -> Tensor:
    """Return all singular vectors of the matrix's shorter side, the leading first; fp64, shape ``[..., r, r]``."""
    double = _wide(matrix).double()
    return torch.linalg.eigh(double @ double.mT).eigenvectors.flip(-1)


def _rough(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return eigenvalues (ascending) and eigenvectors of a wide fp32 matrix's Gram matrix in fp32, at half the cost.

    ``None`` if the numbers are too small or too large to be squared in fp32, or already fp64.
    """
    if matrix.dtype == torch.float64:
        return None
    gram = matrix @ matrix.mT
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    return tuple(torch.linalg.eigh(gram / trace)) if ((trace > 1e-20) & (trace < 1e20)).all() else None


def _leading_vectors(matrix: Tensor, rank: int) -> Tensor:
    """Return the leading left singular vectors of a wide matrix, the first first, fp64, shape ``[..., m, rank]``.

    All of them are found in fp32 by :func:`_rough`. The problem is then solved in fp64 within a subspace that is a
    little wider than asked for, and again after one step towards what lies outside, for which the fp32 vectors are
    inverse enough. A residual that is too large, a rank too high for it, and fp64 take the full decomposition in fp64.
    """
    double, wide = matrix.double(), rank + OVERSAMPLING
    rough = _rough(matrix) if 2 * wide <= matrix.shape[-2] else None
    gram = None if rough and 8 * wide <= matrix.shape[-2] else double @ double.mT  # few vectors: quicker without it
    if rough:
        values, vectors, residual = _within(rough[1][..., -wide:].double(), double, gram)
        values, vectors, residual = _within(vectors + _outside(*rough, residual, values), double, gram)
        if (residual[..., -rank:].norm(dim=-2) <= RESIDUAL * values[..., -1:]).all():
            return vectors[..., -rank:].flip(-1)
    gram = double @ double.mT if gram is None else gram
    return torch.linalg.eigh(gram).eigenvectors[..., -rank:].flip(-1)


def _within(basis: Tensor, matrix: Tensor, gram: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return a Gram matrix's eigenvalues (ascending) and eigenvectors within the span of ``basis``, and residuals."""
    basis = torch.linalg.qr(basis).Q
    image = matrix @ (matrix.mT @ basis) if gram is None else gram @ basis
    values, turn = torch.linalg.eigh(basis.mT @ image)
    vectors = basis @ turn
    return values, vectors, image @ turn - vectors * values[..., None, :]


def _outside(values: Tensor, vectors: Tensor, residual: Tensor, own: Tensor) -> Tensor:
    """Return what leading eigenvectors lack of the directions beyond them, by their residuals, to fp32 accuracy.

    Args:
        values: all eigenvalues, ascending and in any unit, shape ``[..., m]``.
        vectors: all eigenvectors, shape ``[..., m, m]``.
        residual: of each of the w leading ones, shape ``[..., m, w]``.
        own: their eigenvalues, ascending, shape ``[..., w]``.
    """
    others = values.shape[-1] - own.shape[-1]
    top = own[..., -1:]
    gaps = (own / top)[..., None, :] - (values / values[..., -1:])[..., :others, None]
    outer = vectors[..., :others]
    parts = (outer.mT @ (residual / top[..., None]).to(outer.dtype)) / gaps.clamp(min=NARROW).to(outer.dtype)
    return (outer @ parts).double()


def factors(matrix: Tensor, rank: int, vectors: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the leading singular triplets ``U [..., m, k], σ [..., k], V [..., n, k]``.

    From the smaller Gram matrix as in :func:`leading`: in fp32 where the matrix is large, in fp32 itself and all k
    values are of one order, else in fp64; by a full SVD where the last σ is too small for that. Vectors of singular
    values that are zero (1e-12 of the first) are zero.
    """
    if matrix.shape[-2] > matrix.shape[-1]:
        v, s, u = factors(matrix.mT, rank, vectors)
        return u, s, v
    if vectors is None and (close := _close_factors(matrix, rank)):
        return close
    double = matrix.double()
    u = _leading_vectors(matrix, rank) if vectors is None else vectors[..., :rank].double()
    projected = u.mT @ double
    s = projected.norm(dim=-1)
    if (s[..., -1] < DEPENDENT * s[..., 0]).any():
        u, s, v = (part[..., :rank] for part in svd(double))
    else:
        v = (projected / s.clamp(min=1e-300)[..., None]).mT
    real = (s > 1e-12 * s[..., :1]).unsqueeze(-2)
    return u * real, s, v * real


def _close_factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return :func:`factors` of a wide matrix found in fp32 (error 1e-5 on noise), ``None`` where σ falls steeply."""
    rough = _rough(matrix) if matrix.shape[-2] >= LARGE else None
    if not rough or (rough[0][..., -rank] < CLOSE**2 * rough[0][..., -1]).any():
        return None
    u = rough[1][..., -rank:].flip(-1)
    projected = u.mT @ matrix
    s = projected.norm(dim=-1)
    return u, s, (projected / s[..., None]).mT


def polar(matrix: Tensor, tolerance: float = 0.0) -> Tensor:
    """Return the polar factor P Qᵀ of a matrix P D Qᵀ: the nearest one with orthonormal rows or columns.

    In fp64, or in fp32 for an fp32 matrix whose singular values are all of one order.

    Args:
        matrix: shape ``[..., m, n]``.
        tolerance: directions whose singular value is below ``tolerance`` · σ₁ are dropped instead of completed.
    """
    if matrix.shape[-2] < matrix.shape[-1]:
        return polar(matrix.mT, tolerance).mT
    tall = matrix.shape[-2] >= 2 * matrix.shape[-1] >= 2 * LARGE  # square ones are too close to singular for fp32
    rough = _rough(matrix.mT) if tall else None
    if rough and (rough[0][..., 0] > max(CLOSE, tolerance) ** 2 * rough[0][..., -1]).all():
        found = matrix @ _inverse_root(*rough)  # of the Gram matrix over its trace
        return found / (found.square().sum((-2, -1), keepdim=True) / matrix.shape[-1]).sqrt()
    double = matrix.double()
    values, vectors = torch.linalg.eigh(double.mT @ double)
    if (values[..., 0] > max(DEPENDENT, tolerance) ** 2 * values[..., -1]).all():
        return double @ _inverse_root(values, vectors)
    p, d, q = svd(double)
    return (p * (d >= tolerance * d[..., :1]).unsqueeze(-2)) @ q.mT


def _inverse_root(values: Tensor, vectors: Tensor) -> Tensor:
    return (vectors * values.rsqrt().unsqueeze(-2)) @ vectors.mT


def newton_schulz(matrix: Tensor, coefficients: str = "quintic") -> Tensor:
    """Approach the polar factor by matrix products only; singular values far below ‖·‖_F stay small.

    Args:
        matrix: shape ``[..., m, n]``; zero gives zero.
        coefficients: which schedule of :data:`COEFFICIENTS`.
    """
    if matrix.shape[-2] > matrix.shape[-1]:
        return newton_schulz(matrix.mT, coefficients).mT
    y = matrix / torch.linalg.matrix_norm(matrix, keepdim=True).clamp(min=1e-30)
    for a, b, c in COEFFICIENTS[coefficients]:
        gram = y @ y.mT
        y = a * y + (b * gram + c * gram @ gram) @ y
    return y
