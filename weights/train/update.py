# SPDX-License-Identifier: Apache-2.0
"""From a loss to new weights: AdamW on clipped gradients, in half precision on a GPU.

Update does a step of it as PyTorch does. Captured records a whole step (network, gradients, new weights) as one CUDA
graph for each size of input, rounded up, and replays it: the interaction network's step is 2,250 small kernels, which
take longer to launch than to run (35 instead of 20 ms for 83,000 points and 228,000 edges on an H200, width 64).
"""
import torch

DECAY = 1e-4
SCALE, SCALE_MAX, GROWTH = 65536.0, 2.0 ** 20, 2 ** (1 / 2000)     # of the loss: halved when a gradient overflows
ROWS, EDGES = 16384, 32768          # sizes of captured steps are multiples of these


class Update:
    """step(net, *inputs) gives the loss; call with the rate and the inputs for one step of training; returns the loss."""

    def __init__(self, net, step, device):
        self.net, self.step, self.device = net, step, device
        self.optimizer = torch.optim.AdamW(net.parameters(), weight_decay=DECAY)
        self.scaler = torch.amp.GradScaler(device, init_scale=SCALE, enabled=device == "cuda")

    def __call__(self, rate, *inputs):
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device, dtype=torch.float16, enabled=self.device == "cuda"):
            loss = self.step(self.net, *inputs)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def state(self):
        return {"optimizer": self.optimizer.state_dict()["state"], "scale": self.scaler.get_scale()}

    def load(self, state):
        """Goes on where another one, of either kind, was."""
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state["optimizer"]})
        self.scaler.load_state_dict({**self.scaler.state_dict(), "scale": state["scale"]})


def rounded(inputs):
    """(points, edges) of a captured step that has room for these inputs: at least one point is nobody's."""
    return (len(inputs[0]) // ROWS + 1) * ROWS, -(-inputs[1].shape[1] // EDGES) * EDGES


def room(inputs, size):
    """Arrays like the inputs, for so many points and edges."""
    x, edges, *of_edges = inputs
    return [x.new_zeros((size[0], *x.shape[1:])), edges.new_zeros((2, size[1])),
            *(a.new_zeros((size[1], *a.shape[1:])) for a in of_edges)]


def fill(fixed, inputs):
    """Puts the inputs there; edges that are left over join points that are, and are 0 in all else."""
    n, m = len(inputs[0]), inputs[1].shape[1]
    spare = len(fixed[0]) - n
    for into, a in zip((fixed[0], *fixed[2:]), (inputs[0], *inputs[2:])):
        into[:len(a)].copy_(a)
        into[len(a):].zero_()
    fixed[1][:, :m].copy_(inputs[1])
    fixed[1][:, m:] = n + torch.arange(fixed[1].shape[1] - m, device=fixed[1].device) % spare


class Captured:
    """The same for step(net, x, edges, edge_x, true, weight): features of the points [n, F], edges [2, m] between them,
    their features [m, E], which are true [m], and what they count [m]; edges that count 0 change nothing."""

    def __init__(self, net, step, device):
        self.net, self.step, self.parameters = net, step, list(net.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, torch.tensor(0.0, device=device), weight_decay=DECAY,
                                           capturable=True, fused=True)
        self.scale, self.loss = (torch.tensor(value, device=device) for value in (SCALE, 0.0))
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.pool, self.stream, self.graphs = torch.cuda.graph_pool_handle(), torch.cuda.Stream(), {}

    def train(self, inputs):
        """One step, without a word to the host."""
        with torch.autocast("cuda", dtype=torch.float16, cache_enabled=False):
            loss = self.step(self.net, *inputs)
        grads = torch.autograd.grad(loss * self.scale, self.parameters)
        grads = torch._foreach_div(grads, self.scale)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        finite = norm.isfinite()
        factor = torch.where(finite, (1 / (norm + 1e-6)).clamp(max=1.0), 0.0)
        for parameter, grad in zip(self.parameters, grads):
            parameter.grad.copy_(torch.nan_to_num(grad * factor, 0.0, 0.0, 0.0))
        self.optimizer.step()
        self.scale.copy_(torch.where(finite, self.scale * GROWTH, self.scale / 2).clamp(1.0, SCALE_MAX))
        self.loss.copy_(loss.detach())

    def __call__(self, rate, *inputs):
        self.optimizer.param_groups[0]["lr"].fill_(rate)
        size = rounded(inputs)
        fixed, graph = self.graphs[size] if size in self.graphs else (room(inputs, size), None)
        fill(fixed, inputs)
        if graph:
            graph.replay()
            return self.loss.clone()
        #   The first step of this size runs as it is, and by itself: it compiles what is to be compiled
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.train(fixed)
        torch.cuda.current_stream().wait_stream(self.stream)
        loss = self.loss.clone()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):       # records, runs nothing
            self.train(fixed)
        self.graphs[size] = fixed, graph
        return loss

    def state(self):
        return {"optimizer": self.optimizer.state_dict()["state"], "scale": self.scale.item()}

    def load(self, state):
        """Goes on where another one, of either kind, was."""
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state["optimizer"]})
        self.scale.fill_(state["scale"])
