"""Makes optimizers.safetensors: 20 steps of each optimiser on a small regression, by PyTorch 2. Run in this folder."""
import torch, numpy as np, json
from safetensors.torch import save_file
torch.manual_seed(3)
out={}
X=torch.randn(12,5); Y=torch.randn(12,3)
W=torch.randn(3,5)*0.5; B=torch.randn(3)*0.1
out.update({'x':X,'y':Y,'start.fc.weight':W.clone(),'start.fc.bias':B.clone()})
def groups(parameters,**of_bias):
    weight,bias=parameters
    return [{'params':[weight]},{'params':[bias],**of_bias}]
def frozen(parameters):
    weight,bias=parameters
    weight.requires_grad_(False)
    return [bias]
cases={'adam':lambda p:torch.optim.Adam(p,lr=0.02),
 'adam_decay':lambda p:torch.optim.Adam(p,lr=0.02,weight_decay=0.1),
 'adamw':lambda p:torch.optim.AdamW(p,lr=0.02,weight_decay=0.01),
 'sgd':lambda p:torch.optim.SGD(p,lr=0.1),
 'sgd_momentum':lambda p:torch.optim.SGD(p,lr=0.05,momentum=0.9,weight_decay=0.01),
 'sgd_clip':lambda p:torch.optim.SGD(p,lr=0.5),
 'adam_cosine':lambda p:torch.optim.Adam(p,lr=0.05),
 'adamw_groups':lambda p:torch.optim.AdamW(groups(p,lr=0.1,weight_decay=0.0),lr=0.02,weight_decay=0.05),
 'adamw_groups_cosine':lambda p:torch.optim.AdamW(groups(p,lr=0.1),lr=0.02,weight_decay=0.05),
 'sgd_groups':lambda p:torch.optim.SGD(groups(p,weight_decay=0.0),lr=0.05,momentum=0.9,weight_decay=0.1),
 'adam_frozen':lambda p:torch.optim.Adam(frozen(p),lr=0.02),
 'sgd_frozen_clip':lambda p:torch.optim.SGD(frozen(p),lr=0.5)}
for name,make in cases.items():
    fc=torch.nn.Linear(5,3); fc.weight.data=W.clone(); fc.bias.data=B.clone()
    o=make(fc.parameters()); sch=torch.optim.lr_scheduler.CosineAnnealingLR(o,5) if name.endswith('cosine') else None
    losses=[]
    for epoch in range(5):
        for i in range(4):
            b=slice(i*3,i*3+3)
            loss=torch.nn.functional.mse_loss(torch.tanh(fc(X[b])),Y[b]); o.zero_grad(); loss.backward()
            if name.endswith('clip'): torch.nn.utils.clip_grad_norm_(fc.parameters(),0.3)
            o.step(); losses.append(loss.item())
        if sch: sch.step()
    out[name+'.fc.weight']=fc.weight.data.clone(); out[name+'.fc.bias']=fc.bias.data.clone(); out[name+'.losses']=torch.tensor(losses)
save_file(out,'optimizers.safetensors')
