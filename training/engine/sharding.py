"""The prepared policy behind one set of verbs, and its trainable state by name in and out of DDP and ZeRO-1, 2, 3.

The only file that knows DeepSpeed's insides. Everything rests on one fact: whatever the topology, each rank owns a
contiguous fragment (possibly none, possibly all) of each trainable parameter, inside a flat fp32 tensor that is a key
of the optimizer's state:

    parameter   [ . . . . . . . . . . . . ]
    rank 0      [ . . . . . ]
    rank 1                  [ . . . . . . . ]  + padding (ZeRO-3)

Reading fills a zero buffer with the own fragment and sums over ranks; writing copies the own fragment. DeepSpeed's
`safe_get_*` and `safe_set_*` do the same but fail with several parameter groups and with sizes that the number of
ranks does not divide, so the fragments are looked up here.

Trainable parameters are fp32 in every topology (the policy casts with autocast), so a master copy equals the weight it
was made of, and weights are restored by loading them before the engine is built.
"""

import contextlib
import gc
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from training import distributed
from training.engine import ema
from training.engine.gradients import Arrivals
from training.engine.stages import Group
from training.engine.state import KEYS, MOMENTS, State
from vla.parts.projection import Reduction


@dataclass(frozen=True)
class Fragment:
    """Elements [start, start + length) of a parameter, at [offset, offset + length) of the flat fp32 tensor."""

    flat: Tensor
    offset: int
    start: int
    length: int


class Engine:
    """A policy prepared for training: plain, DDP, or DeepSpeed.

    Every method but `__call__`, `pieces` and `adam_steps` is collective: all ranks call it, in the same order.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        policy: nn.Module,
        groups: Sequence[Group],
        *,
        betas: tuple[float, float],
        clip: float,
        micro_batch: int,
        accumulation: int,
        state: State | None = None,
    ) -> None:
        """Build optimizer and engine over the trainable parameters; the policy already has the weights of `state`."""
        parameters = dict(policy.named_parameters())
        self.accelerator = accelerator
        self.policy = policy
        self.groups = list(groups)
        self.parameters = {name: parameters[name] for group in groups for name in group.parameters}
        self.shapes = {name: parameter.shape for name, parameter in self.parameters.items()}
        self.arrivals = Arrivals(self.parameters, self.groups)
        self.clip = clip
        self.accumulation = accumulation
        assert all(parameter.dtype == torch.float32 for parameter in self.parameters.values()), "trainables are fp32"
        optimizer = torch.optim.AdamW(
            [
                {
                    "params": [parameters[name] for name in group.parameters],
                    "lr": group.rate,
                    "weight_decay": group.weight_decay,
                }
                for group in groups
            ],
            betas=betas,
            fused=True,  # its kernel takes or skips the step by a tensor, so the host need not read whether
        )
        self.deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
        if self.deepspeed:
            distributed.configure_deepspeed(accelerator, clip=clip, micro_batch=micro_batch, accumulation=accumulation)
        self.module: Any
        self.optimizer: Any
        self.module, self.optimizer = accelerator.prepare(policy, optimizer)
        self.zero: Any = self.module.optimizer if self.deepspeed else self.optimizer
        self.zero_stage: int = self.module.zero_optimization_stage() if self.deepspeed else 0
        if self.zero_stage == 3:
            distributed.name_readers(policy, Reduction)
        self.adam: torch.optim.Optimizer = self.zero.optimizer
        self.fragments = {name: self._fragment(parameter) for name, parameter in self.parameters.items()}
        self._initialize(state)

    def __call__(self, *args: Any) -> Any:
        """Forward through the wrapped policy: DDP and ZeRO work in its hooks."""
        return self.module(*args)

    # One optimizer step.

    @contextlib.contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Around forward and backward of a micro-batch; DDP's ranks reduce in the step's `last` one alone."""
        if self.deepspeed:
            self.module.set_gradient_accumulation_boundary(is_boundary=last)
            yield
            if not last:
                self.module.step()  # counts the micro-batch; the parameters do not move
        else:
            synchronized = last or self.accelerator.num_processes == 1
            # DDP decides in the forward: entered after it, no_sync has no effect.
            with contextlib.nullcontext() if synchronized else self.module.no_sync():
                yield

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of `loss`, averaged over ranks once the step's micro-batches are through.

        Raises:
            ValueError: a trained parameter has no part in it.
        """
        if self.deepspeed:
            self.module.backward(loss, scale_wrt_gas=False)
        else:
            torch.autograd.backward(loss)
        self.arrivals.check()

    def gradient_norms(self) -> dict[str, Tensor]:
        """L2 norm of the accumulated gradient before clipping, by group, and of `all`: scalars on the device."""
        names = sorted({group.group for group in self.groups})
        squares = torch.zeros(len(names), dtype=torch.float64, device=self.accelerator.device)
        for group, gradients in self._local_gradients():
            if gradients:
                squares[names.index(group.group)] += nn.utils.get_total_norm(gradients).double().square()
        if self.deepspeed:
            dist.all_reduce(squares)
        return {**dict(zip(names, squares.sqrt().unbind(), strict=True)), "all": squares.sum().sqrt()}

    def step(self, factor: float, ema_decay: float, total_norm: Tensor, skip: Tensor) -> None:
        """Clip, step every group at `factor` times its peak rate, clear the gradients, update the averages.

        Where the scalar `skip` is 1, weights, moments and averages stay as they are, bit for bit.
        """
        for settings, group in zip(self.adam.param_groups, self.groups, strict=True):
            settings["lr"] = group.rate * factor
        vars(self.adam)["found_inf"] = skip  # what torch's own GradScaler sets and its kernels ask for
        if self.deepspeed:
            self.module.step()  # a gradient that is not finite it skips by itself
        else:
            nn.utils.clip_grads_with_norm_(self.parameters.values(), self.clip, total_norm.float())
            self.adam.step()
            self.adam.zero_grad(set_to_none=True)
        flats = self._flats()
        ema.update((self.adam.state[flat]["ema"] for flat in flats), (flat.detach() for flat in flats), ema_decay, skip)

    # State by name.

    def state(self) -> State:
        """The whole trainable state, gathered on every rank's host."""
        return State(
            weight=self.gather("weight"),
            moments={key: self.gather(key) for key in MOMENTS},
            adam_steps=self.adam_steps(),
        )

    def pieces(self) -> dict[str, Tensor]:
        """What this rank stores of the state, without talking to the others: views, by stored name.

        Where every rank holds everything, the parameters are dealt out by size. Under ZeRO each rank stores the
        fragments it owns: a part of a parameter is flat, and its name ends in `@` and its first element.
        """
        mine = self.fragments if self.deepspeed else self._dealt()
        pieces = {}
        for name in mine:
            if (fragment := self.fragments[name]) is None:
                continue
            whole = fragment.length == self.shapes[name].numel()
            for key in KEYS:
                piece = self._values(fragment.flat, key).narrow(0, fragment.offset, fragment.length)
                pieces[f"{key}/{name}" if whole else f"{key}/{name}@{fragment.start}"] = (
                    piece.view(self.shapes[name]) if whole else piece
                )
        return pieces

    def _dealt(self) -> list[str]:
        """The parameters of this rank when all are dealt out so that every rank has about the same size."""
        load = [0] * self.accelerator.num_processes
        mine = []
        for name in sorted(self.shapes, key=lambda name: (-self.shapes[name].numel(), name)):
            owner = load.index(min(load))
            load[owner] += self.shapes[name].numel()
            if owner == self.accelerator.process_index:
                mine.append(name)
        return mine

    @torch.no_grad()
    def gather(self, key: str) -> dict[str, Tensor]:
        """`weight`, `exp_avg`, `exp_avg_sq` or `ema` of the trainable parameters, full and in fp32, on every host."""
        gathered = {}
        for name, shape in self.shapes.items():
            full = torch.zeros(shape.numel(), dtype=torch.float32, device=self.accelerator.device)
            if (fragment := self.fragments[name]) is not None:
                local = self._values(fragment.flat, key).narrow(0, fragment.offset, fragment.length)
                full.narrow(0, fragment.start, fragment.length).copy_(local)
            if self.deepspeed:
                dist.all_reduce(full)
            gathered[name] = full.view(shape).to("cpu", copy=True)
        return gathered

    @torch.no_grad()
    def frozen(self, names: Collection[str]) -> dict[str, Tensor]:
        """Full copies of frozen parameters, on the host: under ZeRO-3 they are partitioned too."""
        parameters = {name: parameter for name, parameter in self.policy.named_parameters() if name in names}
        with self._gathered(list(parameters.values()), write=False):
            return {name: parameter.detach().cpu().clone() for name, parameter in parameters.items()}

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within this context the policy's weights are the averaged ones; afterwards the old ones, bit for bit."""
        current = self.gather("weight")
        self._write_weights(self.gather("ema"))
        try:
            yield
        finally:
            self._write_weights(current)

    def close(self) -> None:
        """Let go of engine and optimizer, so that another stage can build its own."""
        self.arrivals.close()
        if self.deepspeed:
            self.module.destroy()
        self.accelerator.free_memory()
        del self.policy, self.module, self.optimizer, self.adam, self.zero, self.fragments, self.parameters
        gc.collect()

    # Fragments.

    def _fragment(self, parameter: Any) -> Fragment | None:
        """Where this rank's part of a parameter lies."""
        match self.zero_stage:
            case 0:
                return Fragment(parameter, 0, 0, parameter.numel())
            case 1 | 2:
                mapping = parameter._hp_mapping
                if mapping is None:
                    return None
                flat = self.zero.single_partition_of_fp32_groups[mapping.param_group_index]
                inside, outside = mapping.get_hp_fragment_address(), mapping.lp_fragment_address
                return Fragment(flat, inside.start, outside.start, inside.numel)
            case _:
                group, offset, length = self.zero.grad_position[self.zero.get_param_id(parameter)]
                start = length * self.zero._get_param_partition_rank(parameter)
                length = min(length, parameter.ds_numel - start)
                flat = self.zero.fp32_partitioned_groups_flat[group]
                return Fragment(flat, int(offset), start, length) if length > 0 else None

    def _flats(self) -> list[Tensor]:
        """The flat fp32 tensors the optimizer of this rank steps."""
        match self.zero_stage:
            case 0:
                return list(self.parameters.values())
            case 1 | 2:
                return list(self.zero.single_partition_of_fp32_groups)
            case _:
                return list(self.zero.fp32_partitioned_groups_flat)

    def _flat_group(self, index: int) -> Group:
        """The group that flat tensor `index` belongs to."""
        match self.zero_stage:
            case 0:
                name = list(self.parameters)[index]
                return next(group for group in self.groups if name in group.parameters)
            case 1 | 2:
                return self.groups[index]
            case _:
                position: int = self.zero.sub_group_to_group_id[index]
                return self.groups[position]

    def _values(self, flat: Tensor, key: str) -> Tensor:
        values: Tensor = flat if key == "weight" else self.adam.state[flat][key]
        return values.detach().view(-1)

    @torch.no_grad()
    def _initialize(self, state: State | None) -> None:
        """Give every flat tensor its moments: fresh ones, or those of `state` for the parameters it knows."""
        for index, flat in enumerate(self._flats()):
            group = self._flat_group(index)
            steps = 0 if state is None else state.adam_steps.get(group.group, 0)
            self.adam.state[flat] = {
                "step": torch.tensor(float(steps), device=flat.device),
                "exp_avg": torch.zeros_like(flat, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(flat, requires_grad=False),
                "ema": flat.detach().clone(),
            }
        if state is None:
            return
        for name, fragment in self.fragments.items():
            if fragment is None:
                continue
            for key in MOMENTS:
                if name in state.moments[key]:
                    full = state.moments[key][name].reshape(-1)
                    local = self._values(fragment.flat, key).narrow(0, fragment.offset, fragment.length)
                    local.copy_(full.narrow(0, fragment.start, fragment.length))

    def adam_steps(self) -> dict[str, int]:
        """How many steps the moments of each group have seen."""
        return {
            self._flat_group(index).group: int(self.adam.state[flat]["step"])
            for index, flat in enumerate(self._flats())
        }

    def _local_gradients(self) -> Iterator[tuple[Group, list[Tensor]]]:
        """This rank's share of the reduced gradients; the shares of all ranks make up each gradient once."""
        if not self.deepspeed:
            for group in self.groups:
                gradients = [self.parameters[name].grad for name in group.parameters]
                yield group, [gradient for gradient in gradients if gradient is not None]
            return
        offloaded = self.zero.cpu_offload if self.zero_stage < 3 else self.zero.offload_optimizer
        for index, flat in enumerate(self._flats()):
            share: list[Any] = [flat.grad] if offloaded else self.zero.averaged_gradients[index]
            yield self._flat_group(index), share

    def _write_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the weights the next forward uses; under ZeRO the optimizer's own copies stay."""
        with torch.no_grad(), self._gathered(list(self.parameters.values()), write=True):
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[name])

    def _gathered(self, parameters: list[nn.Parameter], *, write: bool) -> contextlib.AbstractContextManager[Any]:
        """Full parameters within the context, under ZeRO-3; changes of rank 0 stay when `write`."""
        if self.zero_stage < 3 or not parameters:
            return contextlib.nullcontext()
        import deepspeed

        context: contextlib.AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(
            parameters, modifier_rank=0 if write else None
        )
        return context
