"""SpikingJelly's neurons, surrogates and layers, and the cells of Norse that are known."""

import torch

from ._text import is_sequence, number

_RESET = [("v_threshold", "v_threshold"), ("v_reset", "v_reset")]
_LIF = [("tau", "tau"), ("decay_input", "decay_input")] + _RESET
SPIKINGJELLY_NEURONS = {
    "IFNode": ("if_node", _RESET, ()), "SimpleIFNode": ("if_node", _RESET, ()), "LIFNode": ("lif", _LIF, ()), "SimpleLIFNode": ("lif", _LIF, ()),
    "ParametricLIFNode": ("plif", [("decay_input", "decay_input")] + _RESET, ("w",)), "QIFNode": ("qif", [("tau", "tau"), ("v_c", "v_c"), ("a0", "a0"), ("v_threshold", "v_threshold"), ("v_rest", "v_rest"), ("v_reset", "v_reset")], ()),
    "EIFNode": ("eif", [("tau", "tau"), ("delta_T", "delta_T"), ("theta_rh", "theta_rh"), ("v_threshold", "v_threshold"), ("v_rest", "v_rest"), ("v_reset", "v_reset")], ()),
    "IzhikevichNode": ("izhikevich", [(n, n) for n in ("tau", "v_c", "a0", "v_threshold", "v_reset", "v_rest", "w_rest", "tau_w", "a", "b")], ()),
    "KLIFNode": ("klif", [("scale_reset", "scale_reset")] + _LIF, ("k",)), "CUBALIFNode": ("cuba_lif", [("c_decay", "c_decay"), ("v_decay", "v_decay")] + _RESET, ()),
    "RAFNode": ("resonate_and_fire", [("b", "b"), ("omega", "omega"), ("dt", "dt")] + _RESET, ()), "TernaryIFNode": ("ternary_if", _RESET, ()), "TernaryLIFNode": ("ternary_lif", _LIF, ()),
    "NonSpikingIFNode": ("non_spiking_if", [], ()), "NonSpikingLIFNode": ("non_spiking_lif", [("tau", "tau")], ()), "ComplementaryLIFNode": ("complementary_lif", [("tau", "tau"), ("v_threshold", "v_threshold")], ()),
}
SURROGATES = {
    "Sigmoid": ("sigmoid", [("alpha", "alpha")]), "ATan": ("atan", [("alpha", "alpha")]), "PiecewiseQuadratic": ("piecewise_quadratic", [("alpha", "alpha")]), "PiecewiseExp": ("piecewise_exp", [("alpha", "alpha")]),
    "SoftSign": ("soft_sign", [("alpha", "alpha")]), "SuperSpike": ("super_spike", [("alpha", "alpha")]), "Erf": ("erf", [("alpha", "alpha")]), "NonzeroSignLogAbs": ("nonzero_sign_log_abs", [("alpha", "alpha")]),
    "PiecewiseLeakyReLU": ("piecewise_leaky_relu", [("w", "w"), ("c", "c")]), "S2NN": ("s2nn", [("alpha", "alpha"), ("beta", "beta")]), "QPseudoSpike": ("q_pseudo_spike", [("alpha", "alpha")]),
    "LeakyKReLU": ("leaky_k_relu", [("leak", "leak"), ("k", "k")]), "LogTailedReLU": ("log_tailed_relu", [("alpha", "alpha")]), "SquarewaveFourierSeries": ("squarewave_fourier_series", [("n", "n"), ("T_period", "T_period")]),
    "Rect": ("rect", [("alpha", "alpha")]), "DeterministicPass": ("deterministic_pass", []),
}


def _delay(e, op, m, x, first):
    if not (e.lead or is_sequence(m)):
        e.fail(f"`{op.target}` is a delay of a single step")
    return f"delay({x}, {m.delay_steps})"


def _synapse(e, op, m, x, first):
    if getattr(m, "learnable", False):
        e.fail(f"`{op.target}` learns its time constant, which is written by hand")
    return e.over_time(m, x, lambda s: f"synapse_filter({s}, tau = {number(float(m.tau))})")


def _voting(e, op, m, x, first):
    return f"avg_pool1d({x}, {m.voting_size})"


def _psn(e, op, m, x, first):
    weight, bias = e.parameter(f"{op.target}.weight"), e.parameter(f"{op.target}.bias")
    if type(m).__name__ == "MaskedPSN":
        weight = f"{weight} * {e.constant(torch.where(m.mask0 > 0, m.mask0, float(1 - m.lambda_) * m.mask1) if m.lambda_ < 1 else m.mask0)}"
    surrogate = e.surrogate(m.surrogate_function)
    if type(m).__name__ == "SlidingPSN":
        return f"spike(causal_conv({x}, flip({weight}, 0)) + {bias}, {surrogate})"
    return f"psn({x}, {weight}, {bias}, surrogate = {surrogate})"


def _ilif(e, op, m, x, first):
    s = m.surrogate_function
    if s.grad_min != 0.0 or s.grad_max != s.max_spike_count:
        e.fail(f"`{op.target}` has a gradient between other bounds than its counts; write it by hand")
    more = ", detach_reset = true" if m.detach_reset else ""
    layer = e.layer(op.target, f"ilif(tau = {number(m.tau)}, v_threshold = {number(m.v_threshold)}, max_spikes = {s.max_spike_count}{more})")
    return e.over_time(m, x, lambda y: f"{layer}({y})")


def _gated_lif(e, op, m, x, first):
    one = m.alpha.dim() == 0
    layer = e.layer(op.target, f"gated_lif(steps = {m.T}{'' if one else f', inplane = {m.alpha.shape[0]}'}, surrogate = {e.surrogate(m.surrogate_function)})")
    if one:
        # Where there is one for all, the library's parameters have an axis of one channel.
        for key in e.weights:
            if key.startswith(f"{op.target}."):
                e.weights[key] = e.weights[key].reshape((m.T, 1) if key.endswith(".conduct") else (1,))
    return f"{layer}({x})"


def _liaf(e, op, m, x, first):
    act = m.act
    if not (act in (torch.relu, torch.nn.functional.relu) or type(act) is torch.nn.ReLU):
        e.fail(f"`{op.target}` has another activation than relu; write it as a `neuron` in the program")
    more = f"threshold_related = {str(bool(m.threshold_related)).lower()}, detach_reset = {str(bool(m.detach_reset)).lower()}, surrogate = {e.surrogate(m.surrogate_function)}"
    own = f"liaf({', '.join(f'{ours} = {number(getattr(m, theirs))}' for theirs, ours in _LIF)}, {more})"
    if is_sequence(m):
        # SpikingJelly 2.0 runs a sequence of it as the LIF neuron that it is made from.
        own = own.replace("liaf(", "lif(").replace(f"threshold_related = {str(bool(m.threshold_related)).lower()}, ", "")
    layer = e.layer(op.target, own)
    return e.over_time(m, x, lambda s: f"{layer}({s})")


SPIKINGJELLY_LAYERS = {
    "LIAFNode": _liaf,
    "Delay": _delay, "SynapseFilter": _synapse, "VotingLayer": _voting, "PSN": _psn, "MaskedPSN": _psn, "SlidingPSN": _psn, "ILIFNode": _ilif, "GatedLIFNode": _gated_lif,
}
# Cells of Norse: what they are here, and their parameters beside those of the synapse, the membrane and the leak.
_FIRES = ["v_th", "v_reset"]
NORSE = {
    "LIFCell": ("lif_cell", _FIRES), "LIF": ("lif_cell", _FIRES), "LICell": ("li_cell", []), "LI": ("li_cell", []), "LIFRecurrent": ("lif_recurrent", _FIRES),
    "LIFRecurrentCell": ("lif_recurrent", _FIRES), "LSNNCell": ("lsnn_cell", [*_FIRES, "tau_adapt_inv", "beta"]), "LSNN": ("lsnn_cell", [*_FIRES, "tau_adapt_inv", "beta"]),
    "LIFAdExCell": ("adex_cell", [*_FIRES, "adaptation_current", "adaptation_spike", "delta_T", "tau_ada_inv"]),
    "LIFAdEx": ("adex_cell", [*_FIRES, "adaptation_current", "adaptation_spike", "delta_T", "tau_ada_inv"]),
}
