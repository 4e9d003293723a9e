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
    "ComplementaryLIFNode": ("complementary_lif", [("tau", "tau"), ("v_threshold", "v_threshold")], ()),
}
SURROGATES = {
    "Sigmoid": ("sigmoid", [("alpha", "alpha")]), "ATan": ("atan", [("alpha", "alpha")]), "PiecewiseQuadratic": ("piecewise_quadratic", [("alpha", "alpha")]), "PiecewiseExp": ("piecewise_exp", [("alpha", "alpha")]),
    "SoftSign": ("soft_sign", [("alpha", "alpha")]), "SuperSpike": ("super_spike", [("alpha", "alpha")]), "Erf": ("erf", [("alpha", "alpha")]), "NonzeroSignLogAbs": ("nonzero_sign_log_abs", [("alpha", "alpha")]),
    "PiecewiseLeakyReLU": ("piecewise_leaky_relu", [("w", "w"), ("c", "c")]), "S2NN": ("s2nn", [("alpha", "alpha"), ("beta", "beta")]), "QPseudoSpike": ("q_pseudo_spike", [("alpha", "alpha")]),
    "LeakyKReLU": ("leaky_k_relu", [("leak", "leak"), ("k", "k")]), "LogTailedReLU": ("log_tailed_relu", [("alpha", "alpha")]), "SquarewaveFourierSeries": ("squarewave_fourier_series", [("n", "n"), ("T_period", "T_period")]),
    "Rect": ("rect", [("alpha", "alpha")]), "DeterministicPass": ("deterministic_pass", []),
}


def spikingjelly_surrogate(s):
    """A surrogate module of SpikingJelly as an expression; None for another module, and for one that is not known."""
    name = type(s).__name__
    if name not in SURROGATES or not type(s).__module__.startswith("spikingjelly") or not getattr(s, "spiking", True):
        return None
    own, fields = SURROGATES[name]
    return f"{own}({', '.join(f'{ours} = {number(getattr(s, theirs))}' for theirs, ours in fields)})"


def spikingjelly_is_whole(module):
    """Is a neuron or layer of SpikingJelly one of the library? Others are recorded call by call."""
    name = type(module).__name__
    if name not in SPIKINGJELLY_NEURONS and name not in SPIKINGJELLY_LAYERS:
        return False
    if name == "SynapseFilter" and module.learnable:
        return False
    surrogate = getattr(module, "surrogate_function", None)
    return surrogate is None or name == "ILIFNode" or type(surrogate).__name__ in SURROGATES


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
        return e.over_time(m, x, lambda y: f"spike(causal_conv({y}, flip({weight}, 0)) + {bias}, {surrogate})")
    return f"psn({x}, {weight}, {bias}, surrogate = {surrogate})"


def _non_spiking(name, settings):
    """A neuron that gives its potential: always of a sequence, as a list of steps or what `decode` makes of them."""

    def make(e, op, m, x, first):
        more = ", ".join(f"{n} = {number(getattr(m, n))}" for n in settings)
        v = f"{e.layer(op.target, f'{name}({more})')}({x})"
        if m.decode is None:
            own = e.fresh("potential")
            e.lines.append(f"let {own} = {v}")
            return [f"{own}[{k}]" for k in range(len(op.shapes))]
        if m.decode == "max-abs-mem":
            e.fail(f"`{op.target}` decodes by {m.decode}, which is written by hand")
        return {"max-mem": f"max({v}, axis = 0)", "mean-mem": f"mean({v}, axis = 0)", "last_mem": f"{v}[-1]"}[m.decode]

    return make


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
    "NonSpikingIFNode": _non_spiking("non_spiking_if", ()), "NonSpikingLIFNode": _non_spiking("non_spiking_lif", ("tau",)),
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
NORSE_SURROGATES = {"super": "superspike", "triangle": "triangle", "tanh": "heavi_tanh", "heavi_erfc": "heavi_erfc", "circ": "heavi_circ"}


def norse_is_whole(module):
    """Is a cell of Norse one neuron of the library? Others are recorded call by call, step by step."""
    name = type(module).__name__
    if name not in NORSE:
        return False
    numbers = all(torch.as_tensor(getattr(module.p, f)).numel() == 1 for f in ("tau_syn_inv", "tau_mem_inv", "v_leak", *NORSE[name][1]))
    learned = any(True for n, _ in module.named_parameters() if n not in ("input_weights", "recurrent_weights"))
    return numbers and not learned and (NORSE[name][0] == "li_cell" or module.p.method in NORSE_SURROGATES)


# Surrogates of snnTorch by the name of what makes them: what they are here, and their settings with what they are where none are given.
_SNNTORCH_SURROGATES = {
    "atan": ("atan", [("alpha", "alpha")], {"alpha": 2.0}), "ATan": ("atan", [("alpha", "alpha")], {"alpha": 2.0}), "fast_sigmoid": ("fast_sigmoid", [("slope", "slope")], {"slope": 25}),
    "sigmoid": ("scaled_sigmoid", [("slope", "slope")], {"slope": 25}), "straight_through_estimator": ("straight_through", [], {}), "heaviside": ("fired", [], {}),
    "triangular": ("triangular", [("threshold", "threshold")], {"threshold": 1}), "spike_rate_escape": ("spike_rate_escape", [("beta", "beta"), ("slope", "slope")], {"beta": 1, "slope": 25}),
    "SFS": ("sparse_fast_sigmoid", [("slope", "slope"), ("B", "bound")], {"slope": 25, "B": 1}),
}


def snntorch_surrogate(f):
    """The surrogate of the library that a `spike_grad` of snnTorch is, with its settings; None where there is none."""
    name = getattr(f, "__qualname__", type(f).__qualname__).split(".")[0]
    own = _SNNTORCH_SURROGATES.get(name)
    if own is None or not getattr(f, "__module__", type(f).__module__).startswith("snntorch"):
        return None
    given = dict(zip(f.__code__.co_freevars, [c.cell_contents for c in f.__closure__])) if getattr(f, "__closure__", None) else {}
    return own[0], own[1], {**own[2], **given}


def snntorch_is_whole(module):
    """Is a neuron of snnTorch one of the library? Others are recorded call by call, step by step."""
    name = type(module).__name__
    if name not in ("Leaky", "Synaptic", "Alpha", "Lapicque", "RLeaky", "RSynaptic", "SLSTM"):
        return False
    learned = {n for n, _ in module.named_parameters(recurse=False)}
    if module.inhibition or module.state_quant or snntorch_surrogate(module.spike_grad) is None or float(torch.as_tensor(module.graded_spikes_factor).max()) != 1.0:
        return False
    if learned and name != "Leaky" or not learned <= {"beta", "threshold"} or module.threshold.numel() != 1 and "threshold" not in learned:
        return False
    if name == "Alpha" and module.reset_mechanism == "subtract":
        return False
    if name in ("RLeaky", "RSynaptic"):
        # A reset to zero of a recurrent neuron takes its input away as well, and a reset at once has no form in the library.
        linear = module.all_to_all and isinstance(getattr(module, "recurrent", None), torch.nn.Linear)
        return linear and module.reset_delay and not (name == "RLeaky" and module.reset_mechanism == "zero")
    return True
