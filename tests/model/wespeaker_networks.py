"""Random checkpoints under WeSpeaker's names, each with its network written out by these names."""

import torch
import torch.nn.functional as F

BINS = 16


class Checkpoint(dict):
    """Random tensors under the names of torch modules."""

    def __init__(self):
        super().__init__()
        self.random = torch.Generator().manual_seed(0)

    def tensor(self, *shape):
        scale = 1 / max(1, torch.Size(shape[1:]).numel()) ** 0.5
        return torch.randn(*shape, generator=self.random) * scale

    def layer(self, name, *shape, bias=True):
        self[f"{name}.weight"] = self.tensor(*shape)
        if bias:
            self[f"{name}.bias"] = self.tensor(shape[0], 1)[:, 0]

    def norm(self, name, size, affine=True):
        if affine:
            self[f"{name}.weight"] = 1 + 0.1 * self.tensor(size, 1)[:, 0]
            self[f"{name}.bias"] = 0.1 * self.tensor(size, 1)[:, 0]
        self[f"{name}.running_mean"] = 0.1 * self.tensor(size, 1)[:, 0]
        self[f"{name}.running_var"] = 0.5 + torch.rand(size, generator=self.random)
        # WeSpeaker's average of checkpoints makes a float of the counter.
        self[f"{name}.num_batches_tracked"] = torch.tensor(12.5)

    def apply_layer(self, name, x, **options):
        weight, bias = self[f"{name}.weight"], self.get(f"{name}.bias")
        operation = {2: F.linear, 3: F.conv1d, 4: F.conv2d}[weight.dim()]
        return operation(x, weight, bias, **options)

    def apply_norm(self, name, x):
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *[self.get(f"{name}.{part}") for part in names])


def statistics(x):
    return torch.cat([x.mean(-1).flatten(1), (x.var(-1) + 1e-7).sqrt().flatten(1)], dim=1)


def xvec():
    """frame_1 to frame_5, seg_1, seg_bn_1, seg_2; norms without scale and offset."""
    tensors = Checkpoint()
    widths = [BINS, 24, 24, 24, 24, 40]
    for number, size in enumerate((5, 3, 3, 1, 1), 1):
        before, after = widths[number - 1 : number + 1]
        tensors.layer(f"frame_{number}.conv_1d", after, before, size)
        tensors.norm(f"frame_{number}.bn", after, affine=False)
    tensors.layer("seg_1", 12, 80)
    tensors.norm("seg_bn_1", 12, affine=False)
    tensors.layer("seg_2", 12, 12)

    def forward(x):
        x = x.transpose(1, 2)
        for number, dilation in enumerate((1, 2, 3, 1, 1), 1):
            x = tensors.apply_layer(f"frame_{number}.conv_1d", x, dilation=dilation).relu()
            x = tensors.apply_norm(f"frame_{number}.bn", x)
        x = tensors.apply_layer("seg_1", statistics(x)).relu()
        return tensors.apply_layer("seg_2", tensors.apply_norm("seg_bn_1", x))

    return tensors, forward, {"hid_dim": 24, "stats_dim": 40, "embed_dim": 12}


def resnet34(two_emb_layer=False):
    """conv1, bn1, layer1.0 to layer4.2 with conv1, bn1, conv2, bn2 and shortcut, seg_1."""
    tensors = Checkpoint()
    tensors.layer("conv1", 32, 1, 3, 3, bias=False)
    tensors.norm("bn1", 32)
    width, blocks = 32, []
    for stage, count in enumerate((3, 4, 6, 3)):
        for index in range(count):
            name, wide = f"layer{stage + 1}.{index}", 32 * 2**stage
            stride = 2 if stage and not index else 1
            tensors.layer(f"{name}.conv1", wide, width, 3, 3, bias=False)
            tensors.layer(f"{name}.conv2", wide, wide, 3, 3, bias=False)
            tensors.norm(f"{name}.bn1", wide)
            tensors.norm(f"{name}.bn2", wide)
            if stride == 2:
                tensors.layer(f"{name}.shortcut.0", wide, width, 1, 1, bias=False)
                tensors.norm(f"{name}.shortcut.1", wide)
            blocks.append((name, stride))
            width = wide
    tensors.layer("seg_1", 12, BINS // 8 * 256 * 2)
    if two_emb_layer:
        tensors.norm("seg_bn_1", 12, affine=False)
        tensors.layer("seg_2", 12, 12)

    def forward(x):
        x = tensors.apply_layer("conv1", x.transpose(1, 2).unsqueeze(1), padding=1)
        x = tensors.apply_norm("bn1", x).relu()
        for name, stride in blocks:
            y = tensors.apply_layer(f"{name}.conv1", x, padding=1, stride=stride)
            y = tensors.apply_norm(f"{name}.bn1", y).relu()
            y = tensors.apply_layer(f"{name}.conv2", y, padding=1)
            y = tensors.apply_norm(f"{name}.bn2", y)
            if stride == 2:
                x = tensors.apply_layer(f"{name}.shortcut.0", x, stride=2)
                x = tensors.apply_norm(f"{name}.shortcut.1", x)
            x = (x + y).relu()
        x = tensors.apply_layer("seg_1", statistics(x))
        if not two_emb_layer:
            return x
        return tensors.apply_layer("seg_2", tensors.apply_norm("seg_bn_1", x.relu()))

    return tensors, forward, {"embed_dim": 12, "two_emb_layer": two_emb_layer}


def ecapa(channels, context, emb_bn=False):
    """layer1, layer2 to layer4 with se_res2block.0 to .3, conv, pool, bn, linear, bn2."""
    tensors = Checkpoint()
    part = channels // 8

    def conv_norm(conv, norm, *shape):
        tensors.layer(conv, *shape)
        tensors.norm(norm, shape[0])

    conv_norm("layer1.conv", "layer1.bn", channels, BINS, 5)
    for name in (f"layer{i}.se_res2block" for i in (2, 3, 4)):
        for place in (0, 2):
            conv_norm(f"{name}.{place}.conv", f"{name}.{place}.bn", channels, channels, 1)
        for index in range(7):
            conv_norm(f"{name}.1.convs.{index}", f"{name}.1.bns.{index}", part, part, 3)
        tensors.layer(f"{name}.3.linear1", 128, channels)
        tensors.layer(f"{name}.3.linear2", channels, 128)
    tensors.layer("conv", 1536, 3 * channels, 1)
    tensors.layer("pool.linear1", 128, 3 * 1536 if context else 1536, 1)
    tensors.layer("pool.linear2", 1536, 128, 1)
    tensors.norm("bn", 3072)
    tensors.layer("linear", 12, 3072)
    if emb_bn:
        tensors.norm("bn2", 12)

    def conv_relu_norm(conv, norm, x, **options):
        return tensors.apply_norm(norm, tensors.apply_layer(conv, x, **options).relu())

    def block(number, x):
        name = f"layer{number}.se_res2block"
        *parts, last = conv_relu_norm(f"{name}.0.conv", f"{name}.0.bn", x).split(part, dim=1)
        done, y = [], 0
        for index, one in enumerate(parts):
            conv, norm = f"{name}.1.convs.{index}", f"{name}.1.bns.{index}"
            y = conv_relu_norm(conv, norm, y + one, padding=number, dilation=number)
            done.append(y)
        y = conv_relu_norm(f"{name}.2.conv", f"{name}.2.bn", torch.cat([*done, last], dim=1))
        scale = tensors.apply_layer(f"{name}.3.linear1", y.mean(2)).relu()
        return x + y * tensors.apply_layer(f"{name}.3.linear2", scale).sigmoid().unsqueeze(2)

    def forward(x):
        outputs = [conv_relu_norm("layer1.conv", "layer1.bn", x.transpose(1, 2), padding=2)]
        for number in (2, 3, 4):
            outputs.append(block(number, outputs[-1]))
        x = tensors.apply_layer("conv", torch.cat(outputs[1:], dim=1)).relu()
        seen = x
        if context:
            around = statistics(x).unsqueeze(2).expand(-1, -1, x.shape[2])
            seen = torch.cat([x, around], dim=1)
        weights = tensors.apply_layer("pool.linear1", seen).tanh()
        weights = tensors.apply_layer("pool.linear2", weights).softmax(2)
        mean = (weights * x).sum(2)
        deviation = ((weights * x**2).sum(2) - mean**2).clamp(min=1e-7).sqrt()
        pooled = tensors.apply_norm("bn", torch.cat([mean, deviation], dim=1))
        embedding = tensors.apply_layer("linear", pooled)
        return tensors.apply_norm("bn2", embedding) if emb_bn else embedding

    return tensors, forward, {"embed_dim": 12, "emb_bn": emb_bn}
