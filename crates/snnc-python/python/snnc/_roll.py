"""Loops over time in Python: the same calls once a step become one program over time.

A module that keeps a state (a neuron) and is called T times says that the record is a loop of T steps. The calls of each step must be the same;
then a call of step k takes what step k has made, what step k - 1 has made (a state, or a recurrent connection), or what no step makes.
"""

import torch

from ._text import Ref, number, refs_in


class Plan:
    """Which calls are which step: `rows[k][j]` is the index of call `j` of step `k`.

    The first step may lack calls on the zeros that a state begins with (`state * 0.9`), because they are not recorded: None.
    """

    def __init__(self, rows, made=(), by_index=False):
        # Found by the indices that a loop takes out of a sequence: what repeats may be no loop over time, and stays as it is where it cannot be one.
        self.by_index = by_index
        # Calls among those of the first step that make the states of the beginning.
        self.made = sorted(made)
        self.rows, self.start, self.period, self.steps = rows, next(i for i in rows[0] if i is not None), len(rows[0]), len(rows)
        self.end = rows[-1][-1] + 1
        self.places = {i: (k, j) for k, row in enumerate(rows) for j, i in enumerate(row) if i is not None}

    def place(self, index):
        """The step and the place in it of a call, if it is in the loop."""
        return self.places.get(index)

    def index(self, j):
        """The call that stands for call `j` of a step: the second one, since a state may begin as a number."""
        return self.rows[1][j]

    def is_missing(self, j):
        return self.rows[0][j] is None


# Functions that are zero where their first argument is.
_KEEP_ZERO = {"mul", "div", "truediv", "neg", "clone", "detach"}
# Functions that make a tensor of sizes only.
_MAKES = {"zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"}


def is_stateful(module):
    where = type(module).__module__
    if where.startswith("spikingjelly"):
        return ".neuron" in where and getattr(module, "step_mode", "s") == "s" or type(module).__name__ in ("SynapseFilter", "Delay")
    return where.startswith("snntorch") or where.startswith("norse") and type(module).__name__.endswith("Cell")


def find(emitter):
    """The loop over time of a record, or None where there is none."""
    ops = emitter.recorder.ops
    calls = {}
    for i, op in enumerate(ops):
        if op.kind == "mark" or op.kind == "module" and is_stateful(emitter.modules[op.target]):
            calls.setdefault(op.target, []).append(i)
    counts = {len(v) for v in calls.values()}
    if not calls or counts == {1}:
        places = by_index(ops)
        return plan_of(ops, places, True) if places else None
    if len(counts) > 1:
        emitter.fail("neurons are called different numbers of times: " + ", ".join(f"`{n}` {len(v)}" for n, v in calls.items()))
    plan = plan_of(ops, min(calls.values()))
    if plan is None:
        emitter.fail("the steps of the loop over time do not make the same calls, so that they cannot become one program; write the part that differs by hand")
    return plan


def by_index(ops):
    """The calls that take step 0, 1, 2, ... out of one tensor; None where there are fewer than three."""
    taken = {}
    for i, op in enumerate(ops):
        if op.kind == "function" and op.target == "__getitem__" and isinstance(op.args[0], Ref):
            index = op.args[1] if isinstance(op.args[1], tuple) else (op.args[1],)
            steps = [a for a, k in enumerate(index) if type(k) is int]
            if len(steps) == 1 and all(a == steps[0] or k == slice(None) for a, k in enumerate(index)):
                taken.setdefault((op.args[0], steps[0]), []).append((index[steps[0]], i))
    loops = [[i for _, i in found] for found in taken.values() if len(found) >= 3 and [k for k, _ in found] == list(range(len(found)))]
    return max(loops, key=len, default=None)


def plan_of(ops, places, by_index=False):
    """The steps around calls that each step makes once, where all make the same calls."""
    steps, period = len(places), places[-1] - places[-2]
    if by_index and period < 3:
        return None
    signs = [(op.kind, op.target) for op in ops]
    # Where the body begins: any place before the first neuron, such that all steps are alike.
    for before in range(period):
        last = places[-1] - before
        if last < 0 or last + period > len(ops):
            continue
        body = signs[last : last + period]
        starts = [last - (steps - 1 - k) * period for k in range(1, steps)]
        if any(s < 0 or signs[s : s + period] != body for s in starts):
            continue
        # The first step, from its end.
        row, made, at = [], [], starts[0] - 1
        for j in reversed(range(period)):
            while at >= 0 and signs[at] != body[j] and signs[at][0] == "function" and signs[at][1] in _MAKES:
                made.append(at)
                at -= 1
            if at >= 0 and signs[at] == body[j]:
                row.append(at)
                at -= 1
            elif body[j][0] == "function" and body[j][1] in _KEEP_ZERO:
                row.append(None)
            else:
                break
        else:
            return Plan([row[::-1]] + [list(range(s, s + period)) for s in starts], made, by_index)
    return None


class Value:
    """A value of a step: an expression, over time or the same at all steps."""

    def __init__(self, text, over_time):
        self.text, self.over_time = text, over_time


def is_zero(emitter, ref):
    """Is a value that comes before the first step zeros?"""
    if ref is None or isinstance(ref, (int, float)):
        return not ref
    if ref.op == "constant":
        t = emitter.recorder.constants[ref.index]
        return t.numel() == 0 or not bool(t.any())
    if isinstance(ref.op, int) and ref.op >= 0:
        op = emitter.recorder.ops[ref.op]
        filled = op.kwargs.get("fill_value", op.args[1] if len(op.args) > 1 else None)
        return op.target in ("zeros_like", "new_zeros", "zeros") or op.target in ("full", "full_like") and is_zero(emitter, filled) and filled is not None
    return isinstance(ref.op, str) and not bool(torch.as_tensor(emitter.state.get(ref.op, torch.ones(1))).any())


def emit(emitter, plan):
    Roller(emitter, plan).run()


class Roller:
    def __init__(self, emitter, plan):
        self.e, self.plan, self.values, self.before = emitter, plan, {}, {}
        # The calls that write what the loop gives into a tensor.
        self.written = set()
        self.time = str(plan.steps)
        emitter.steps = self.time

    def instances(self, j):
        return [self.e.recorder.ops[row[j]] for row in self.plan.rows if row[j] is not None]

    def sort(self, many):
        """How an argument goes over the steps; `many` is shorter by one where the first step lacks the call."""
        late = self.plan.steps - len(many)
        if late and isinstance(many[0], Ref):
            places = [self.plan.place(r.op) for r in many]
            if all(p is not None and p[0] == k for k, p in enumerate(places)) and len({(p[1], r.index) for p, r in zip(places, many)}) == 1:
                return ("before", places[0][1], many[0].index, None)
        return self.sort_all(many, late)

    def sort_all(self, many, late):
        """What an argument is over all steps: ("same", value), ("step", offset), ("now" | "before", place, result, first) or a list of such."""
        first = many[0]
        if isinstance(first, (int, float)) and len(many) > 1 and all(isinstance(m, Ref) for m in many[1:]):
            places = [self.plan.place(r.op) for r in many[1:]]
            if all(p is not None and p[0] == k for k, p in enumerate(places)) and len({(p[1], r.index) for p, r in zip(places, many[1:])}) == 1:
                return ("before", places[0][1], many[1].index, first)
        if isinstance(first, Ref):
            places = [self.plan.place(r.op) if isinstance(r.op, int) and r.op >= 0 else None for r in many]
            rest = {(p[1], r.index) if p is not None and p[0] == k + 1 else None for k, (p, r) in enumerate(zip(places[1:], many[1:]))}
            if places[0] is None and len(rest) == 1 and None not in rest and self.plan.is_missing(min(rest)[0]):
                if not is_zero(self.e, first):
                    self.e.fail(f"a state of a step begins at a value that is not zero\n  {self.e.op.where}")
                return ("now", *min(rest), None)
            if all(r == first for r in many) and places[0] is None:
                return ("same", first)
            if not late and all(p is not None and p[0] == k for k, p in enumerate(places)) and len({(p[1], r.index) for p, r in zip(places, many)}) == 1:
                return ("now", places[0][1], first.index, None)
            if places[0] is None and all(p is not None and p[0] == k for k, p in enumerate(places[1:])) and len({(p[1], r.index) for p, r in zip(places[1:], many[1:])}) == 1:
                return ("before", places[1][1], many[1].index, first)
            if all(p is None and r.op == first.op and r.index == k for k, (p, r) in enumerate(zip(places, many))) and isinstance(first.op, int) and self.e.recorder.ops[first.op].target == "unbind":
                return ("unbound", first.op)
            self.e.fail(f"what a step takes is neither its own, nor of the step before, nor the same for all\n  {self.e.op.where}")
        if isinstance(first, dict) and all(isinstance(m, dict) and m.keys() == first.keys() for m in many):
            return {k: self.sort([m[k] for m in many]) for k in first}
        if isinstance(first, (list, tuple)) and all(isinstance(m, (list, tuple)) and len(m) == len(first) for m in many):
            return [self.sort([m[i] for m in many]) for i in range(len(first))]
        if all(type(m) is type(first) and m == first for m in many):
            return ("same", first)
        if isinstance(first, int) and all(type(m) is int and m == first + k for k, m in enumerate(many)):
            return ("step", first)
        self.e.fail(f"an argument changes from step to step: {many[:3]}\n  {self.e.op.where}")

    def kinds(self, sorted_):
        if isinstance(sorted_, dict):
            return [k for v in sorted_.values() for k in self.kinds(v)]
        if isinstance(sorted_, list):
            return [k for v in sorted_ for k in self.kinds(v)]
        return [sorted_]

    def run(self):
        e, plan = self.e, self.plan
        for i, n in enumerate(e.input_names):
            e.env[e.ref(-1, i)] = n
        for i in [*range(plan.start), *(i for i in plan.made if i > plan.start)]:
            e.call(i)
        sorted_args = []
        for j in range(plan.period):
            ops = self.instances(j)
            e.op = ops[0]
            # PyTorch says `0 + x` as `x + 0`.
            if ops[0].target in ("add", "mul") and len(ops) > 1 and isinstance(ops[0].args[1], (int, float)) and isinstance(ops[1].args[1], Ref):
                ops[0].args = (ops[0].args[1], ops[0].args[0])
            if ops[0].kind == "module" and is_stateful(e.modules[ops[0].target]):
                sorted_args.append((self.without_states(j, ops), {}))
            else:
                sorted_args.append((self.sort([o.args for o in ops]), self.sort([o.kwargs for o in ops])))
        order, recursive = self.order(sorted_args)
        if plan.by_index and not recursive:
            e.fail("no step takes what the step before has made")
        for j in order:
            self.body(j, *sorted_args[j], recursive)
        for i in range(plan.end, len(e.recorder.ops)):
            self.after(i)
        e.refs = [self.seen(r) for r in e.refs]

    def without_states(self, j, ops):
        """The arguments of a neuron without the states that it gives back to itself."""
        kept = [self.sort([o.args[0] for o in ops])]
        for many in zip(*[refs_in(o.args[1:]) + refs_in(o.kwargs) for o in ops]):
            s = self.sort(list(many))
            own = s[0] == "before" and s[1] == j
            if own and is_zero(self.e, s[3]) or s[0] == "same" and is_zero(self.e, s[1]):
                continue
            self.e.fail(f"`{ops[0].target}` is given a state that is not its own of the step before, beginning at zero\n  {ops[0].where}")
        return kept

    def order(self, sorted_args):
        """The calls of a step in an order of definition, and those that are recursive, with each other."""
        n = self.plan.period
        needs = [{(k[1], k[0] == "before") for k in self.kinds([a, list(kw.values())]) if k[0] in ("now", "before")} for a, kw in sorted_args]
        reach = [{p for p, _ in needs[j]} for j in range(n)]
        for _ in range(n):
            changed = False
            for j in range(n):
                more = set().union(*[reach[p] for p in reach[j]]) - reach[j] if reach[j] else set()
                if more:
                    reach[j] |= more
                    changed = True
            if not changed:
                break
        recursive = {j for j in range(n) if j in reach[j]}
        groups, seen = [], set()
        for j in range(n):
            if j in seen:
                continue
            group = [k for k in range(n) if k in recursive and j in recursive and k in reach[j] and j in reach[k]] or [j]
            seen |= set(group)
            groups.append(group)
        done, order = set(), []
        while groups:
            for g in groups:
                if all(p in done or p in g for j in g for p, _ in needs[j]):
                    break
            else:
                self.e.fail("the calls of a step cannot be put into an order")
            groups.remove(g)
            order += g
            done |= set(g)
        return order, recursive

    def body(self, j, args, kwargs, recursive):
        e, index = self.e, self.plan.index(j)
        op = e.op = e.recorder.ops[index]
        if op.kind == "mark":
            return
        if op.target == "setitem":
            return self.write(j, args)
        if op.target == "__getitem__" and args[0][0] == "same":
            at = args[1] if isinstance(args[1], list) else [args[1]]
            step = [a for a, k in enumerate(at) if isinstance(k, tuple) and k[0] == "step"]
            if step:
                return self.of_step(j, args[0][1], at, step[0])
        kinds = self.kinds([args, list(kwargs.values())])
        over_time = any(k[0] == "before" or k[0] == "unbound" or k[0] == "now" and self.value(k, recursive).over_time for k in kinds)
        stateful = op.kind == "module" and is_stateful(e.modules[op.target])
        refs = {}

        def put(value, sorted_):
            if isinstance(sorted_, dict):
                return {k: put(value[k], s) for k, s in sorted_.items()}
            if isinstance(sorted_, list):
                return type(value)(put(v, s) for v, s in zip(value, sorted_)) if type(value) in (list, tuple) else tuple(put(v, s) for v, s in zip(value, sorted_))
            if sorted_[0] in ("now", "before", "unbound"):
                if isinstance(value, (int, float)):
                    value = e.ref(self.plan.index(sorted_[1]), sorted_[2])
                refs[value] = self.value(sorted_, recursive)
            return value

        given = op.args
        shown_args = put(list(op.args[: len(args)]), args)
        # The states that it gives back to itself are no arguments.
        op.args = tuple(shown_args) + (() if stateful else tuple(op.args[len(args) :]))
        put(op.kwargs, kwargs)
        if stateful and not over_time:
            for r in refs.values():
                r.text = f"repeat({r.text}, {self.time})"
            if not refs:
                ref = shown_args[0]
                refs[ref] = Value(f"repeat({e.value(ref)}, {self.time})", True)
            over_time = True
        saved = dict(e.env)
        for ref, v in refs.items():
            e.env[ref] = v.text
        e.lead, before = (1 if over_time else 0), len(e.lines)
        e.call(index)
        e.lead, op.args = 0, given
        made = {k: v for k, v in e.env.items() if k.op == index}
        e.env = saved
        if j in recursive:
            self.make_recursive(index, j, before, made)
        for ref, text in made.items():
            self.values[(j, ref.index)] = Value(text, over_time)
            e.env[ref] = text

    def make_recursive(self, index, j, before, made):
        """The lines that define a recursive value say its name, which others knew before, and its type."""
        e = self.e
        for ref, text in made.items():
            name = self.before.get((j, ref.index)) or e.fresh("h")
            dims = ", ".join([self.time_text()] + e.shape(index, ref.index))
            line = next((i for i in range(before, len(e.lines)) if e.lines[i].startswith(f"let {text} = ")), None)
            value = e.lines[line].split(" = ", 1)[1] if line is not None else text
            made[ref] = name
            dtype = e.recorder.ops[index].dtypes[ref.index]
            kind = "f32" if dtype.is_floating_point else "bool" if dtype == torch.bool else "i64"
            new = f"let rec {name}: {kind}[{dims}] = {value}"
            if line is not None:
                e.lines[line] = new
            else:
                e.lines.append(new)

    def time_text(self):
        return self.time

    def value(self, kind, recursive):
        """A value that a step takes."""
        e = self.e
        if kind[0] == "unbound":
            source = e.recorder.ops[kind[1]]
            dim = source.kwargs.get("dim", source.args[1] if len(source.args) > 1 else 0)
            return Value(self.moved(source.args[0], dim), True)
        _, j, result, first = kind
        known = self.values.get((j, result))
        if known is None or kind[0] == "before" and j in recursive:
            name = self.before.setdefault((j, result), None) or e.fresh("h")
            self.before[(j, result)] = name if known is None else known.text
            name = self.before[(j, result)]
        else:
            name = known.text
        if kind[0] == "now":
            return Value(name, known.over_time if known is not None else True)
        if is_zero(e, first):
            return Value(f"delay({name}, 1)", True)
        dims = e.shape(self.plan.index(j), result)
        if not isinstance(first, Ref) or e.rank(first) < len(dims):
            begin = e.value(first) if isinstance(first, Ref) else number(first)
            return Value(f"delay({name}, 1, init = full([{', '.join(['1', *dims])}], 0.0) + {begin})", True)
        return Value(f"delay({name}, 1, init = unsqueeze({e.value(first)}, 0))", True)

    def moved(self, ref, axis):
        """A tensor with an axis of steps, which comes to the front."""
        e = self.e
        text, rank = e.value(ref), e.rank(ref)
        axis %= rank
        if ref.op == -1 and e.inputs[ref.index].shape[axis] == self.plan.steps:
            e.time_axes[ref.index] = axis
            self.time = "T"
            e.steps = "T"
        elif (e.inputs[ref.index].shape if ref.op == -1 else e.recorder.ops[ref.op].shapes[ref.index] if isinstance(ref.op, int) else e.tensor_of(ref).shape)[axis] != self.plan.steps:
            colons = ":, " * axis
            text = f"{text}[{colons}:{self.plan.steps}]"
        return text if axis == 0 else f"permute({text}, {[axis] + [a for a in range(rank) if a != axis]})"

    def of_step(self, j, ref, at, axis):
        """`x[t]`, `x[:, t]`: the whole sequence."""
        e = self.e
        if at[axis][1] != 0 or any(k != ("same", slice(None, None, None)) for a, k in enumerate(at) if a != axis):
            e.fail(f"a step is taken out of a sequence with an offset or with other indices\n  {e.op.where}")
        text = self.moved(ref, axis)
        if not text.isidentifier():
            name = e.fresh("sequence")
            e.lines.append(f"let {name} = {text}")
            text = name
        self.values[(j, 0)] = Value(text, True)

    def write(self, j, args):
        """`out[t] = v` for all steps of a tensor that is made before: after the loop it is the sequence."""
        e, (target, axis, step, value) = self.e, args
        axis = axis[1]
        size = e.recorder.ops[self.plan.rows[0][j]].shapes[0][axis]
        own = target[0] == "before" and target[1] == j and isinstance(target[3], Ref)
        if not own or step != ("step", 0) or size != self.plan.steps or not isinstance(value, tuple) or value[0] not in ("now", "before"):
            e.fail(f"a step writes into a tensor otherwise than `out[t] = v` for every t\n  {e.op.where}")
        v = self.value(value, set())
        text = v.text if v.over_time else f"repeat({v.text}, {self.time})"
        if axis:
            order = list(range(1, axis + 1)) + [0] + list(range(axis + 1, len(e.recorder.ops[self.plan.rows[0][j]].shapes[0])))
            text = f"permute({text}, {order})"
        self.values[(j, 0)] = Value(text, True)
        self.written.add(j)

    def seen(self, ref):
        """What a ref of the loop is after it."""
        e = self.e
        place = self.plan.place(ref.op) if isinstance(ref.op, int) and ref.op >= 0 else None
        if place is not None and ref not in e.env or place is not None and self.values.get((place[1], ref.index), Value("", False)).over_time:
            v = self.values.get((place[1], ref.index))
            if v is None:
                e.fail(f"a state of a step is used after the loop, which is not possible here\n  {e.recorder.ops[ref.op].where}")
            k = place[0]
            if place[1] in self.written:
                if k != self.plan.steps - 1:
                    e.fail(f"a tensor is used before all its steps are written\n  {e.recorder.ops[ref.op].where}")
                e.env[ref] = v.text
                return ref
            e.env[ref] = v.text if not v.over_time else f"{v.text}[-1]" if k == self.plan.steps - 1 else f"{v.text}[{k}]"
        return ref

    def after(self, i):
        """A call after the loop; a stack of all steps is the sequence."""
        e = self.e
        op = e.op = e.recorder.ops[i]
        if op.target in ("stack", "cat") and isinstance(op.args[0], (list, tuple)) and len(op.args[0]) == self.plan.steps:
            places = [self.plan.place(r.op) if isinstance(r, Ref) and isinstance(r.op, int) and r.op >= 0 else None for r in op.args[0]]
            first = op.args[0][0]
            if all(p is not None and p[0] == k and p[1] == places[0][1] and r.index == first.index for k, (p, r) in enumerate(zip(places, op.args[0]))):
                v = self.values.get((places[0][1], first.index))
                dim = op.kwargs.get("dim", op.args[1] if len(op.args) > 1 else 0)
                rank = len(op.shapes[0])
                if op.target == "stack" and v is not None:
                    text = v.text if v.over_time else f"repeat({v.text}, {self.time})"
                    dim %= rank
                    if dim:
                        order = list(range(1, dim + 1)) + [0] + list(range(dim + 1, rank))
                        text = f"permute({text}, {order})"
                    e.let(i, "steps", [text])
                    return
        for r in refs_in(op.args) + refs_in(op.kwargs):
            self.seen(r)
        e.call(i)
