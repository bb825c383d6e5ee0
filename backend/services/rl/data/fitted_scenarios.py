"""Two scenarios from one history: days like the real ones, and the real ones themselves."""

from collections import Counter

import numpy as np

from services.rl.simulation.demand import DemandModel
from services.rl.simulation.scenarios import (
    Coordinates,
    DriverPattern,
    FittedDemand,
    Fleet,
    HaversineTravel,
    Place,
    ReplayDemand,
    Rules,
    Scenario,
    Site,
    Split,
)

from .dataset import HistoryDays
from .demand_fit import regular_days
from .zones import Zones


def fitted_scenario(
    history: HistoryDays,
    model: DemandModel,
    travel: HaversineTravel,
    *,
    model_file: str,
    model_sha256: str,
) -> Scenario:
    """Days drawn from the fitted demand, with the history's typical fleet and speeds.

    Args:
        history: Gives the fleet and the operating day.
        model: The fitted demand.
        travel: The fitted travel.
        model_file: Where the model is saved; relative to the scenario's YAML.
        model_sha256: Its hash.
    """
    training = history.labels(Split.TRAIN)
    return Scenario(
        name=history.name,
        description=(
            f"Fitted to {len(training)} training days of {history.name}, "
            f"{training[0]} to {training[-1]}: {model.bookings_mean:.0f} bookings a day."
        ),
        place=_place(history, model),
        travel=travel,
        demand=FittedDemand(model=model_file, model_sha256=model_sha256),
        fleet=typical_fleet(history, model),
        rules=_rules(history),
    )


def replay_scenario(
    history: HistoryDays,
    model: DemandModel,
    travel: HaversineTravel,
    *,
    dataset_folder: str,
    dataset_sha256: str,
) -> Scenario:
    """The real days, bookings and drivers as they were."""
    return Scenario(
        name=f"{history.name}-replay",
        description=f"Real days of {history.name}, {history.dates[0]} to {history.dates[-1]}.",
        place=_place(history, model),
        travel=travel,
        demand=ReplayDemand(dataset=dataset_folder, dataset_sha256=dataset_sha256),
        fleet=typical_fleet(history, model),
        rules=_rules(history),
    )


def typical_fleet(history: HistoryDays, model: DemandModel) -> Fleet:
    """As many drivers as on the median regular training day, those on duty most often.

    A driver starts in the zone nearest to the usual start: homes are not copied into a scenario.
    """
    regular = {day.label for day in regular_days(history.days(Split.TRAIN))}
    dates = [d for d, date in enumerate(history.dates) if date in regular]
    spans = [slice(history.driver_offset[d], history.driver_offset[d + 1]) for d in dates]
    size = max(1, round(float(np.median([span.stop - span.start for span in spans]))))
    often = Counter(int(n) for span in spans for n in history.driver_number[span])
    chosen = [number for number, _ in sorted(often.items(), key=lambda item: (-item[1], item[0]))]
    area = Zones(
        model.site_lat,
        model.site_lon,
        model.site_spread_km,
        np.array([np.median(model.site_lat), np.median(model.site_lon)]),
    )
    patterns = []
    for number in sorted(chosen[:size]):
        rows = history.drivers[history.driver_number == number]
        zone = int(area.nearest(rows["lat"][:1], rows["lon"][:1])[0])
        patterns.append(
            DriverPattern(
                shift_start_min=float(np.median(rows["shift_start_min"])),
                shift_end_min=float(np.median(rows["shift_end_min"])),
                wheelchair=bool(rows["wheelchair"][-1]),
                emergency=bool(rows["emergency"][-1]),
                start=model.site_name[zone],
            )
        )
    return Fleet(num_drivers=max(len(patterns), 1), patterns=tuple(patterns) or (DriverPattern(),))


def _place(history: HistoryDays, model: DemandModel) -> Place:
    weight = (model.stream_share[:, None, None] * model.od_share).sum(axis=0)
    share = (weight.sum(axis=0) + weight.sum(axis=1)) / 2
    base = Coordinates(
        lat=round(float(share @ model.site_lat), 6), lon=round(float(share @ model.site_lon), 6)
    )
    sites = tuple(
        Site(
            name=model.site_name[k],
            kind="zone",
            lat=round(float(model.site_lat[k]), 6),
            lon=round(float(model.site_lon[k]), 6),
            weight=round(max(float(share[k]), 1e-6), 6),
            spread_km=round(min(float(model.site_spread_km[k]), 20.0), 4),
        )
        for k in range(len(model.site_name))
    )
    return Place(name=history.name, timezone=history.timezone, base=base, sites=sites)


def _rules(history: HistoryDays) -> Rules:
    return Rules(day_start=history.day_start, horizon_min=history.horizon_min)
