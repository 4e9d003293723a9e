"""Makes data, weights and expected values for library.snn from PyTorch, snnTorch and Norse (BSD 3-clause, MIT and LGPL 3; nothing of theirs is copied).

python generate.py writes data.safetensors, weights.safetensors and expected.safetensors beside itself; needs torch, snntorch, norse, safetensors."""
import pathlib
import snntorch, torch, torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

torch.manual_seed(0)
here = pathlib.Path(__file__).parent
x = torch.randn(3, 4, 6, requires_grad=True)
image = torch.randn(3, 4, 5, 5, requires_grad=True)
ids = torch.randint(0, 7, (3, 3))
spikes_in = (torch.rand(12, 3, 6) * 1.2 + 0.02).requires_grad_()
probe, probe2 = torch.randn(3, 4, 6), torch.randn(12, 3, 6)
want = {}

def put(net, **values):
    for k, v in values.items():
        want[f"{net}.{k}"] = v.detach().float().contiguous()

four = lambda f: f(x[:, None])[:, 0]
f = dict(gelu=F.gelu(x), silu=F.silu(x), softplus=F.softplus(x), leaky_relu=F.leaky_relu(x), elu=F.elu(x), logsumexp=x.logsumexp(-1), flip=x.flip(-1), roll=x.roll(2, 2),
         tril=x.tril(1), triu=x.triu(-1), cumprod=x.cumprod(1), sorted=x.sort(-1, descending=True).values, top=x.topk(3).values, quantile=x.quantile(0.3, -1),
         reversed=torch.stack([x[..., 5], x[..., 3], x[..., 1]], -1), einsum=torch.einsum("bij,bik->bjk", x, x), nearest=four(lambda y: F.interpolate(y, scale_factor=2)),
         bilinear=four(lambda y: F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)), sigmoid=torch.sigmoid(x * 30), attention=F.scaled_dot_product_attention(x, x, x))
put("functions", **f)
y = f["gelu"] + f["silu"] + f["softplus"] + f["leaky_relu"] + f["elu"] + f["logsumexp"][..., None] + f["flip"] * x + f["cumprod"] + x.sort(-1).values * x + f["sigmoid"] + f["attention"]
loss = (y * probe).sum()
put("functions_loss", loss=loss, **{"grad.x": torch.autograd.grad(loss, x)[0]})

class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn, self.ln, self.rms, self.gn, self.inorm = nn.BatchNorm1d(4), nn.LayerNorm(6), nn.RMSNorm(6), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4)
        self.ct1, self.ct2 = nn.ConvTranspose1d(4, 6, 4, 2, groups=2), nn.ConvTranspose2d(4, 2, 3, 2)
        self.em, self.lstm, self.gru, self.mha = nn.Embedding(7, 5), nn.LSTMCell(6, 3), nn.GRUCell(6, 3), nn.MultiheadAttention(6, 2, batch_first=True)
    def forward(self, x, image, ids):
        flat = x.reshape(12, 6)
        h, c = self.lstm(flat, (torch.zeros(12, 3), torch.ones(12, 3)))
        back = lambda t: t.reshape(3, 4, 3)
        return dict(batch_norm=self.bn(x), layer_norm=self.ln(x), rms_norm=self.rms(x), group_norm=self.gn(image), instance_norm=self.inorm(image), up1=self.ct1(x), up2=self.ct2(image),
                    embedding=self.em(ids), h=back(h), c=back(c), gru=back(self.gru(flat, torch.ones(12, 3))), attention=self.mha(x, x, x)[0])
net = Layers().eval()
for p in net.parameters():
    nn.init.normal_(p, std=0.5)
nn.init.uniform_(net.bn.running_var, 0.5, 2)
nn.init.normal_(net.bn.running_mean)
out = net(x, image, ids)
put("layers", **out)
cubed = ["batch_norm", "layer_norm", "rms_norm", "group_norm", "instance_norm"]
loss = sum((v ** 3 if k in cubed else v ** 2).mean() for k, v in out.items())
named = dict(net.named_parameters())
grads = torch.autograd.grad(loss, [x, image, *named.values()])
put("layers_loss", loss=loss, **{f"grad.{n}": g for n, g in zip(["x", "image", *named], grads)})

def over_time(cell, states):
    spikes = []
    for t in range(12):
        s, *states = cell(spikes_in[t], *states)
        spikes.append(s)
    return torch.stack(spikes)
z = lambda n: [torch.zeros(3, 6) for _ in range(n)]
g = snntorch.surrogate.atan()
rl = snntorch.RLeaky(beta=0.8, linear_features=6, spike_grad=g)
nn.init.normal_(rl.recurrent.weight, std=0.3)
s, m, rec = torch.zeros(3, 6), torch.zeros(3, 6), []
for t in range(12):
    s, m = rl(spikes_in[t], s, m)
    rec.append(s)
n = dict(subtract=over_time(snntorch.Leaky(0.9, spike_grad=g), z(1)), zero=over_time(snntorch.Leaky(0.9, reset_mechanism="zero", spike_grad=g), z(1)),
         at_once=over_time(snntorch.Leaky(0.9, reset_delay=False, spike_grad=g), z(1)), zero_at_once=over_time(snntorch.Leaky(0.9, reset_delay=False, reset_mechanism="zero", spike_grad=g), z(1)),
         synaptic=over_time(snntorch.Synaptic(0.8, 0.9, spike_grad=g), z(2)), alpha=over_time(snntorch.Alpha(0.9, 0.8, reset_mechanism="zero", spike_grad=g), z(3)),
         lapicque=over_time(snntorch.Lapicque(R=5.0, C=2.0, spike_grad=g), z(1)), recurrent=torch.stack(rec))
put("neurons", **n)
loss = (sum(n.values()) * probe2).sum()
gx, gw = torch.autograd.grad(loss, [spikes_in, rl.recurrent.weight])
put("neurons_loss", loss=loss, **{"grad.x": gx, "grad.rl.recurrent.weight": gw})
import norse.torch as norse
def cell(method):
    p = norse.LIFParameters(method=method, v_reset=torch.as_tensor(-0.1), alpha=torch.as_tensor(2.0))
    return norse.LIF(p)(spikes_in * 5)[0]
n = {k: cell(m) for k, m in dict(lif="super", triangle="triangle", tanh="tanh", erfc="heavi_erfc", circ="circ").items()} | dict(li=norse.LI()(spikes_in)[0])
put("norse", **n)
loss = (sum(n.values()) * probe2).sum()
put("norse_loss", loss=loss, **{"grad.x": torch.autograd.grad(loss, spikes_in)[0]})
weights = {k: v for k, v in net.state_dict().items() if "num_batches" not in k}
weights |= {f"rl.recurrent.{k}": v for k, v in rl.recurrent.state_dict().items()}
data = dict(x=x, image=image, ids=ids, spikes=spikes_in, probe=probe, probe2=probe2)
save_file({k: v.detach().contiguous() for k, v in weights.items()}, here / "weights.safetensors")
save_file({k: v.detach().contiguous() for k, v in data.items()}, here / "data.safetensors")
save_file(want, here / "expected.safetensors")
