r"""Dense oracles: the paper's process, the best model, solvers, laws and the bound as whole matrices, in NumPy and SciPy alone.

Nothing of gendiff is used here: the tests hold both against each other. Events are flat vectors of d numbers; U is a d x d
matrix, a, s, β and D are vectors over components.

    B_i = I - (1 - β_i) D^{2 f(i)} ,   a_i = Π_{j<=i} sqrt(1 - B_j) ,   s_i = sqrt(1 - a_i²) ,   x_i = U a_i U^T x_0 + U s_i U^T ε

A solver is a loop over steps, written as its paper writes it. Its law for Gaussian data is found by running it with all
draws zero, and then with each component of each draw at one: it is affine in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import scipy.fft
import scipy.linalg

Vector = np.ndarray
Matrix = np.ndarray
#: x_i and i to x̂_0, in event space.
Model = Callable[[Vector, int], Vector]


def cosines(shape: Sequence[int]) -> Matrix:
    """U of the DCT: columns are the basis events, each channel alike, for events ``(C, *spatial)``."""
    U = np.eye(shape[0])
    for n in shape[1:]:
        U = np.kron(U, scipy.fft.dct(np.eye(n), norm="ortho", axis=0).T)
    return U


def attenuation(shape: Sequence[int], sigma: float) -> Vector:
    """D: the blur of a symmetric picture by a sampled Gaussian, as eigenvalues u^T W u of its matrix, axis by axis."""
    total = np.ones(1)
    for n in shape[1:]:
        reach = math.ceil(12 * sigma) + 1
        taps = np.arange(-reach, reach + 1)
        weight = np.exp(-(taps**2) / (2 * sigma**2))
        W = np.zeros((n, n))
        for m in range(n):
            for tap, g in zip(taps, weight / weight.sum(), strict=True):
                place = (m + tap) % (2 * n)  # d c b a | a b c d | d c b a
                W[m, place if place < n else 2 * n - 1 - place] += g
        U = scipy.fft.dct(np.eye(n), norm="ortho", axis=0).T
        total = np.outer(total, np.einsum("mk,mn,nk->k", U, W, U)).ravel()
    return np.tile(total, shape[0])


@dataclass(frozen=True)
class Process:
    """U and the scales of i = 0..N, ``(N+1, d)`` each."""

    U: Matrix
    a: Matrix
    s: Matrix

    @classmethod
    def blur(cls, shape: Sequence[int], N: int, f_max: float, sigma: float = 0.4) -> Process:
        """The paper's, with its linear β and quartic f: a product over steps, one after the other."""
        D = attenuation(shape, sigma)
        beta = [1e-4 + (0.02 - 1e-4) * (i - 1) / (N - 1) for i in range(1, N + 1)]
        A = np.array([np.ones_like(D), *((1 - b) * D ** (2 * f_max * (i / N) ** 4) for i, b in enumerate(beta, 1))])
        B = 1 - A
        kept, added = [np.ones_like(D)], [np.zeros_like(D)]
        for A_i, B_i in zip(A[1:], B[1:], strict=True):
            kept.append(kept[-1] * A_i)
            added.append(added[-1] * A_i + B_i)  # the variance of the noise; 1 - Ā would lose digits
        return cls(cosines(shape), np.sqrt(kept), np.sqrt(added))

    @classmethod
    def heat(cls, shape: Sequence[int], N: int, smallest: float, largest: float, s: float) -> Process:
        """Heat: exp(-ρ² σ²/2), σ rising in equal ratios, and the same noise at every step but 0."""
        squares = np.zeros(1)
        for n in shape[1:]:
            squares = np.add.outer(squares, (np.pi * np.arange(n) / n) ** 2).ravel()
        sigma = np.concatenate([[0], np.geomspace(smallest, largest, N)])
        a = np.exp(-np.tile(squares, shape[0]) * sigma[:, None] ** 2 / 2)
        return cls(cosines(shape), a, np.where(sigma[:, None] > 0, s, 0) + 0 * a)

    @classmethod
    def steady(cls, N: int, first: Vector, last: Vector) -> Process:
        """U = I, and λ falls in equal steps from ``first`` at i = 1 to ``last`` at N, each component at its own pace."""
        lam = np.linspace(first, last, N)
        a, s = np.sqrt(1 / (1 + np.exp(-2 * lam))), np.sqrt(1 / (1 + np.exp(2 * lam)))
        ends = np.ones((1, len(first)))
        return cls(np.eye(len(first)), np.concatenate([ends, a]), np.concatenate([0 * ends, s]))

    @property
    def N(self) -> int:
        return len(self.a) - 1

    def lam(self, i: int) -> Vector:
        with np.errstate(divide="ignore"):
            return np.log(self.a[i]) - np.log(self.s[i])

    def operator(self, diagonal: Vector) -> Matrix:
        """U diag U^T."""
        return (self.U * diagonal) @ self.U.T

    def posterior(self, i: int, j: int) -> tuple[Matrix, Matrix, Matrix]:
        """``q(x_j | x_i, x_0) = N(P x_i + Q x_0, S)`` by conditioning the joint Gaussian of (x_j, x_i) on x_i."""
        a_i, s_i, a_j, s_j = self.a[i], self.s[i], self.a[j], self.s[j]
        of_j, of_i = self.operator(s_j**2), self.operator(s_i**2)
        both = self.operator(a_i / a_j * s_j**2)  # x_i = (a_i/a_j) x_j + noise of its own
        gain = both @ np.linalg.inv(of_i)
        return gain, self.operator(a_j) - gain @ self.operator(a_i), of_j - gain @ both.T


def best_model(process: Process, mean: Vector, covariance: Matrix) -> Model:
    """E(x_0 | x_i) for data N(mean, covariance), any covariance."""

    @cache
    def gain(i: int) -> tuple[Matrix, Vector]:
        A, S = process.operator(process.a[i]), process.operator(process.s[i] ** 2)
        return covariance @ A @ np.linalg.inv(A @ covariance @ A + S), A @ mean

    def model(x: Vector, i: int) -> Vector:
        G, centre = gain(i)
        return mean + (x - centre) @ G.T

    return model


# --- solvers, in rotated coordinates ------------------------------------------------------------------------------------

#: The next N(0, I); the point and the model of a solver are in rotated coordinates.
Draw = Callable[[], Vector]


def ddim(process: Process, model: Model, steps: Sequence[int], x: Vector, draw: Draw, eta: float = 0.0) -> Vector:
    for i, j in pairwise(steps):
        x_0 = model(x, i)
        eps = (x - process.a[i] * x_0) / process.s[i]
        r = (process.a[i] / process.a[j]) ** 2 * (process.s[j] / process.s[i]) ** 2
        e = eta * process.s[j] * np.sqrt(1 - r)
        x = process.a[j] * x_0 + np.sqrt(process.s[j] ** 2 - e**2) * eps
        if eta and j > 0:
            x = x + e * draw()
    return x


def ancestral(process: Process, model: Model, steps: Sequence[int], x: Vector, draw: Draw) -> Vector:
    """From the posterior, component by component as a product of two Gaussians in x_j."""
    for i, j in pairwise(steps):
        x_0 = model(x, i)
        if j == 0:
            return x_0
        ratio = process.a[i] / process.a[j]
        noise = process.s[i] ** 2 - ratio**2 * process.s[j] ** 2
        precision = ratio**2 / noise + 1 / process.s[j] ** 2
        x = (ratio * x / noise + process.a[j] * x_0 / process.s[j] ** 2) / precision + draw() / np.sqrt(precision)
    return x


def reverse_diffusion(process: Process, model: Model, steps: Sequence[int], x: Vector, draw: Draw) -> Vector:
    for i in range(process.N, 0, -1):
        A = (process.a[i] / process.a[i - 1]) ** 2
        score = -(x - process.a[i] * model(x, i)) / process.s[i] ** 2
        x = (2 - np.sqrt(A)) * x + (1 - A) * score
        if i > 1:
            x = x + np.sqrt(1 - A) * draw()
    return x


def momentum(process: Process, model: Model, steps: Sequence[int], x: Vector, draw: Draw) -> Vector:
    """Soft diffusion: x̂_0 corrupted anew, with as much of the noise as is left, and what is missing drawn."""
    for i, j in pairwise(steps):
        x_0 = model(x, i)
        eps = (x - process.a[i] * x_0) / process.s[i]
        x = process.a[j] * x_0 + process.s[j] ** 2 / process.s[i] * eps
        if j > 0:
            x = x + np.sqrt(process.s[i] ** 2 - process.s[j] ** 2) * draw()
    return x


def heat_dissipation(
    process: Process, model: Model, steps: Sequence[int], x: Vector, draw: Draw, delta: float
) -> Vector:
    """Every step adds what the step before has more, and noise of its own but for the last."""
    for i, j in pairwise(range(process.N, -1, -1)):
        x = x + (process.a[j] * model(x, i) - x)
        if j > 0:
            x = x + delta * process.s[i] * draw()
    return x


def dpmpp_2m(
    process: Process, model: Model, steps: Sequence[int], x: Vector, draw: Draw, noisy: bool = False
) -> Vector:
    """Of order two in λ; the first and the last step of order one, extrapolation by twice the step before at most."""
    before, h_before = None, None
    for i, j in pairwise(steps):
        X = model(x, i)
        if j == 0:
            return X
        h = process.lam(j) - process.lam(i)
        ahead = X if before is None else X + np.minimum(h / h_before, 2) / 2 * (X - before)
        c = 2 if noisy else 1
        x = process.s[j] / process.s[i] * np.exp((1 - c) * h) * x + process.a[j] * (1 - np.exp(-c * h)) * ahead
        if noisy:
            x = x + process.s[j] * np.sqrt(1 - np.exp(-2 * h)) * draw()
        before, h_before = X, h
    return x


def unipc_2(process: Process, model: Model, steps: Sequence[int], x: Vector, draw: Draw) -> Vector:
    """Predict, evaluate there, correct with that evaluation and go on from the corrected point, with no evaluation more."""
    before, h_before = None, None
    X = model(x, steps[0])
    for i, j in pairwise(steps):
        if j == 0:
            return X
        h = process.lam(j) - process.lam(i)
        E, phi = np.expm1(-h), np.expm1(-h) / -h - 1
        base = process.s[j] / process.s[i] * x - process.a[j] * E * X
        R = 0 * X if before is None else np.minimum(h / h_before, 2) * (X - before)
        arrived = model(base - process.a[j] * E * R / 2, j)
        if before is None:
            rho_1, rho_2 = 0 * h, 0.5 + 0 * h
        else:
            b_1, b_2 = phi / E, 2 * (phi / -h - 0.5) / E
            rho_1 = (b_1 - b_2) / (1 + 1 / np.minimum(h / h_before, 2))
            rho_2 = b_1 - rho_1
        x = base - process.a[j] * E * (rho_1 * R + rho_2 * (arrived - X))
        before, h_before, X = X, h, arrived
    return x


def heun(process: Process, model: Model, steps: Sequence[int], x: Vector, draw: Draw) -> Vector:
    """d(x/a)/dσ = ε̂ with σ = s/a; DDIM at the last step, and over more than 2 in λ."""
    for i, j in pairwise(steps):
        x_0 = model(x, i)
        eps = (x - process.a[i] * x_0) / process.s[i]
        guess = process.a[j] * x_0 + process.s[j] * eps
        if j == 0:
            return guess
        eps_j = (guess - process.a[j] * model(guess, j)) / process.s[j]
        sigma_i, sigma_j = (process.s[k] / process.a[k] for k in (i, j))
        short = np.log(sigma_i / sigma_j) <= 2
        x = guess + np.where(short, process.a[j] * (sigma_j - sigma_i) / 2 * (eps_j - eps), 0)
    return x


def trig(
    process: Process,
    model: Model,
    steps: Sequence[int],
    x: Vector,
    draw: Draw,
    m: Vector,
    c: Vector,
    solver: str = "euler",
) -> Vector:
    """dy/dθ = -T, with the moments m and c that the process is told."""

    def angle(i: int) -> tuple[Vector, Vector]:
        return np.arctan2(process.s[i], process.a[i] * np.sqrt(c)), np.sqrt(process.a[i] ** 2 * c + process.s[i] ** 2)

    def turning(x: Vector, i: int) -> Vector:
        x_0 = model(x, i)
        eps = (x - process.a[i] * x_0) / process.s[i]
        return np.sin(angle(i)[0]) * (x_0 - m) / np.sqrt(c) - np.cos(angle(i)[0]) * eps

    before = None
    y = (x - process.a[steps[0]] * m) / angle(steps[0])[1]
    for i, j in pairwise(steps):
        (theta_i, root_i), (theta_j, root_j) = angle(i), angle(j)
        turn = theta_j - theta_i
        T = turning(process.a[i] * m + root_i * y, i)
        slope = T
        if solver == "ab2" and before is not None and j > 0:
            slope = T + np.minimum(turn / before[1], 1) / 2 * (T - before[0])
        guess = y - turn * slope
        if solver == "heun" and j > 0:
            guess = guess - turn / 2 * (turning(process.a[j] * m + root_j * guess, j) - T)
        y, before = guess, (T, turn)
    return process.a[steps[-1]] * m + angle(steps[-1])[1] * y


def law_of(
    process: Process,
    solver: Callable[..., Vector],
    steps: Sequence[int],
    mean: Vector,
    covariance: Matrix,
    /,
    **options: object,
) -> tuple[Vector, Matrix]:
    """Mean and covariance in event space of what a solver makes of ``N(0, s_N²)`` with the best model of N(mean, covariance)."""
    best = best_model(process, mean, covariance)
    U, d = process.U, len(mean)

    def run(draws: int) -> tuple[Matrix, int]:
        """All at once, a row each: with every draw zero, and with one component of one of so many draws at one."""
        count = 0

        def draw() -> Matrix:
            nonlocal count
            z = np.zeros((1 + draws * d, d))
            if draws:
                z[1 + count * d : 1 + (count + 1) * d] = np.eye(d)
            count += 1
            return z

        x_bar = solver(
            process, lambda x, i: best(x @ U.T, i) @ U, steps, process.s[process.N] * draw(), draw, **options
        )
        return x_bar @ U.T, count

    drawn, _ = run(run(0)[1])
    moved = drawn[1:] - drawn[0]
    return drawn[0], moved.T @ moved


def wasserstein(mean: Vector, covariance: Matrix, other_mean: Vector, other_covariance: Matrix) -> float:
    """Squared distance of two Gaussian laws, with SciPy's root of the product itself."""
    cross = np.trace(scipy.linalg.sqrtm(covariance @ other_covariance).real)
    return float(((mean - other_mean) ** 2).sum() + np.trace(covariance) + np.trace(other_covariance) - 2 * cross)


def bound(process: Process, mean: Vector, covariance: Matrix) -> float:
    """The mean over Gaussian data of the bound in nats, as the divergence of two whole chains and the entropy of the data.

    The chain draws x_N from N(0, s_N²), then from q(x_{i-1} | x_i, x̂_0) with the best x̂_0, and at last from N(x̂_0, s_1²/a_1²).
    The joint law of (x_0, ..., x_N), (N+1) d numbers, is Gaussian under the data and under the chain.
    """
    N, d = process.N, len(mean)

    def joint(first: tuple[Vector, Matrix], links: Sequence[tuple[Matrix, Vector, Matrix]]) -> tuple[Vector, Matrix]:
        """Of y_0 = N(*first) and y_{n+1} = G y_n + g + N(0, W)."""
        size = (len(links) + 1) * d
        centre, spread = np.zeros(size), np.zeros((size, size))
        centre[:d], spread[:d, :d] = first
        for n, (G, g, W) in enumerate(links):
            old, new = slice(n * d, (n + 1) * d), slice((n + 1) * d, (n + 2) * d)
            centre[new] = G @ centre[old] + g
            spread[new, : new.start] = G @ spread[old, : new.start]
            spread[: new.start, new] = spread[new, : new.start].T
            spread[new, new] = G @ spread[old, old] @ G.T + W
        return centre, spread

    forward = []
    for i in range(1, N + 1):
        ratio = process.a[i] / process.a[i - 1]
        noise = process.s[i] ** 2 - ratio**2 * process.s[i - 1] ** 2
        forward.append((process.operator(ratio), np.zeros(d), process.operator(noise)))
    q_mean, q_spread = joint((mean, covariance), forward)
    best, zero = best_model(process, mean, covariance), np.zeros(d)
    backward = []
    for i in range(N, 0, -1):
        rest = best(zero, i)
        H = np.array([best(unit, i) - rest for unit in np.eye(d)]).T
        P, Q, S = np.zeros((d, d)), np.eye(d), process.operator((process.s[1] / process.a[1]) ** 2)
        if i > 1:
            P, Q, S = process.posterior(i, i - 1)
        backward.append((P + Q @ H, Q @ rest, S))
    p_mean, p_spread = joint((zero, process.operator(process.s[N] ** 2)), backward)
    order = np.concatenate([np.arange(k * d, (k + 1) * d) for k in range(N, -1, -1)])
    p_mean, p_spread = p_mean[order], p_spread[np.ix_(order, order)]
    shift, inverse = p_mean - q_mean, np.linalg.inv(p_spread)
    spread = np.linalg.slogdet(p_spread)[1] - np.linalg.slogdet(q_spread)[1] + np.trace(inverse @ q_spread)
    divergence = 0.5 * (spread + shift @ inverse @ shift - len(shift))
    entropy = 0.5 * (d * math.log(2 * math.pi * math.e) + np.linalg.slogdet(covariance)[1])
    return float(divergence + entropy)
