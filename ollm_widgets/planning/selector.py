"""From a resolved model and a config to a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ollm_widgets.errors import KVStrategyError
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.backend_choice import choose_backend
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.device_choice import choose_device, demand_of
from ollm_widgets.planning.devices import Device, Machine, probe_machine
from ollm_widgets.planning.draft import Draft, sized_kv
from ollm_widgets.planning.kv_choice import choose_strategy, refused_strategy
from ollm_widgets.planning.parts import KVPlan, LayerPlacement
from ollm_widgets.planning.passes import native_registry, planned_passes
from ollm_widgets.planning.placement import count_obstacle, offload_obstacle
from ollm_widgets.planning.plan import RuntimePlan
from ollm_widgets.planning.profile.bandwidth import Bandwidth, bandwidth_of
from ollm_widgets.planning.search.words import why_placed
from ollm_widgets.planning.shortfall import room_obstacles
from ollm_widgets.planning.specialization import SpecializationRegistry
from ollm_widgets.planning.speed.disks import beside_disk
from ollm_widgets.planning.speed.loading import file_room_bytes
from ollm_widgets.planning.speed.predicted import SpeedPrediction
from ollm_widgets.planning.speed.prediction import predict_speed
from ollm_widgets.planning.spread import arranged
from ollm_widgets.planning.streaming import LayoutBook
from ollm_widgets.planning.traits import GENERIC_TRAITS, NATIVE_TRAITS, BackendTraits
from ollm_widgets.planning.weights import layer_count
from ollm_widgets.planning.wording import details_of, missing_files, why_it_runs

Measure: TypeAlias = Callable[[Device], Bandwidth | None]


class BackendSelector:
    """Chooses backend, device, KV strategy and placement; loads nothing.

    Parameters
    ----------
    traits
        What the backends can do.
    registry
        Specialization passes that may apply; by default those of optimized-native.
    measure
        Gives the bandwidth that predictions rest on.
    """

    def __init__(
        self,
        traits: tuple[BackendTraits, ...] = (NATIVE_TRAITS, GENERIC_TRAITS),
        registry: SpecializationRegistry | None = None,
        measure: Measure = bandwidth_of,
    ) -> None:
        self.traits = traits or (NATIVE_TRAITS, GENERIC_TRAITS)
        self.registry = registry if registry is not None else native_registry()
        self.measure = measure

    def select(
        self, resolved: ResolvedModel, config: RuntimeConfig, machine: Machine | None = None
    ) -> RuntimePlan:
        """Make the plan for a model.

        A choice that this backend, model or machine rules out gives a plan that is not
        executable and says why; it never becomes another choice silently.

        Parameters
        ----------
        machine
            What there is to run on; looked at now when it is not given.

        Raises
        ------
        ConfigError
            If a field of `config` holds a value that cannot work with any model.
        """
        config.validate()
        config = config.copy()
        draft = self._draft(resolved, config, machine or probe_machine())
        obstacles = [*draft.backend.obstacles, *_obstacles(draft)]
        try:
            kv = choose_strategy(
                config,
                draft.kv_strategy_traits,
                resolved,
                draft.memory(),
                spills=draft.kv_spills,
            )
        except KVStrategyError as error:
            obstacles.append(str(error))
            kv = refused_strategy(config, resolved, str(error))
        kv = sized_kv(kv, draft)
        draft = draft.with_spilled_kv(kv)
        obstacles += room_obstacles(draft)
        if not resolved.is_supported():
            obstacles = [resolved.resolution_message]
        needs_files = resolved.model_path is None and not obstacles
        if resolved.model_path is None and resolved.is_supported():
            obstacles.append(missing_files(resolved))
        return _plan(draft, kv, tuple(obstacles), needs_files, self._speed(draft, kv))

    def _draft(self, resolved: ResolvedModel, config: RuntimeConfig, machine: Machine) -> Draft:
        backend = choose_backend(resolved, config, machine, self.traits, self.registry)
        demand = demand_of(resolved, config, backend.traits)
        choice = choose_device(config, demand, machine, backend.traits)
        demand = demand.on(choice.device.kind)
        footprint = demand.footprint(choice.dtype, choice.device.kind)
        judged = resolved.is_supported() and not choice.obstacle

        def measured(device: Device, from_disk: bool) -> Bandwidth | None:
            known = self.measure(device) if judged else None
            if known is None:
                return None
            return beside_disk(known, resolved.model_path, streams=from_disk)

        return arranged(
            Draft(
                resolved,
                config,
                machine,
                backend,
                choice,
                demand,
                footprint,
                LayerPlacement(),
                LayoutBook(measured),
            )
        )

    def _speed(self, draft: Draft, kv: KVPlan) -> SpeedPrediction | None:
        """Predict the speed, where the bandwidth of every wire that is used is known."""
        runs = draft.resolved.is_supported() and not draft.choice.obstacle
        if draft.footprint.sizes is None or not runs or not draft.memory().fits:
            return None
        bandwidth = self.measure(draft.choice.device)
        if bandwidth is None:
            return None
        folder = draft.resolved.model_path
        streams = draft.placement.disk_layers > 0
        return predict_speed(
            draft.footprint.sizes,
            draft.resolved.shape,
            draft.choice.dtype,
            beside_disk(bandwidth, folder, streams=streams),
            context_tokens=kv.context_tokens,
            window_tokens=kv.window_tokens,
            use_cache=draft.config.use_cache,
            run=draft.run,
            kv=kv,
            generic=draft.backend.backend_id == "transformers-generic",
            text_only=draft.resolved.generic_model_kind == "causal-lm",
            file_room_bytes=file_room_bytes(draft.memory()) if folder is not None else None,
        )


def _obstacles(draft: Draft) -> list[str]:
    """What stands against device, layer counts and context, in that order."""
    config, resolved, device = draft.config, draft.resolved, draft.choice.device
    obstacles = [draft.choice.obstacle] if draft.choice.obstacle else []
    layers = layer_count(resolved)
    if draft.choice.obstacle:
        offload = count_obstacle(config, layers) if layers else ""
    else:
        offload = offload_obstacle(config, draft.backend.traits, device, layers)
    if offload:
        obstacles.append(offload)
    limit = resolved.capabilities.context_length
    if limit and config.context_tokens is not None and config.context_tokens > limit:
        obstacles.append(
            f"context_tokens: {config.context_tokens:,} tokens were asked for, the model takes "
            f"{limit:,}."
        )
    return obstacles


def _plan(
    draft: Draft,
    kv: KVPlan,
    obstacles: tuple[str, ...],
    needs_files: bool,
    speed: SpeedPrediction | None,
) -> RuntimePlan:
    resolved, config, traits = draft.resolved, draft.config, draft.backend.traits
    match = draft.backend.match if not draft.backend.obstacles else None
    native = draft.backend.backend_id == "optimized-native"
    if draft.backend.backend_id is None:
        support = resolved.capabilities.support_level
    else:
        support = "optimized" if native and not draft.backend.obstacles else "generic"
    memory = draft.memory()
    pass_ids = planned_passes(match, draft.run) if match is not None else ()
    return RuntimePlan(
        resolved_model=resolved,
        config=config,
        backend_id=draft.backend.backend_id,
        device=draft.choice.name,
        dtype=draft.choice.dtype,
        model_path=resolved.model_path,
        executable=not obstacles,
        needs_files=needs_files,
        support_level=support,
        generic_model_kind=resolved.generic_model_kind,
        reason=obstacles[0] if obstacles else why_it_runs(draft, memory),
        kv=kv,
        placement=draft.placement,
        streaming=draft.streaming,
        memory=memory,
        speed=speed,
        details=(
            *obstacles[1:],
            *details_of(draft, kv, speed, obstacles),
            *why_placed(draft),
        ),
        supports_disk_cache=traits.supports_disk_cache,
        supports_cpu_offload=traits.supports_cpu_offload,
        supports_gpu_offload=traits.supports_gpu_offload,
        specialization_enabled=config.use_specialization,
        specialization_provider_id=match.provider_id if match else None,
        specialization_state="planned" if match else "not-planned",
        specialization_pass_ids=pass_ids,
    )
