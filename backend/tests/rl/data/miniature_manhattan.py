"""A generated folder in the format of the Manhattan data: four zones in a row, invented trips."""

import datetime
from pathlib import Path

import numpy as np

from services.rl.simulation.scenarios import Scenario, load_scenario, parse_scenario

ZONES = 4
HOP_M, HOP_MIN, HOP_FARE = 459, 2, 2.6  # from a zone to the next


def miniature_scenario(num_drivers: int = 6, **reward: float) -> Scenario:
    raw = load_scenario("manhattan_11").model_dump(mode="json")
    raw["name"] = "manhattan_miniature"
    raw["demand"] |= {"folder": "data_miniature", "max_requests_per_minute": 3}
    raw["fleet"]["num_drivers"] = num_drivers
    raw["reward"] |= reward
    return parse_scenario(raw, source="miniature")


def write_folder(root: Path, seed: int, train: int = 45, validation: int = 3) -> Path:
    """Write zones, graph, dates and one trip file per date; returns ``root``."""
    folder = root / "data" / "data_miniature"
    (folder / "trip_data").mkdir(parents=True)
    zones = [f"{i},{-74.0 + 0.0054 * i},40.73,{i},0" for i in range(ZONES)]
    _write(folder / "zones.csv", ",longitude,latitude,horizontal_idx,vertical_idx", zones)
    graph = []
    for i in range(ZONES):
        for j in range(ZONES):
            if i != j:
                hops = abs(i - j)
                fare = round(HOP_FARE * hops, 2)
                graph.append(f'{i},{j},{HOP_M * hops},{HOP_MIN * hops},"[{i}, {j}]",{fare}')
    _write(
        folder / "graph(dt_60s).csv",
        "origin_ID,destination_ID,distance,travel_time,route,fare",
        graph,
    )
    first = datetime.date(2015, 3, 2)
    dates = [str(first + datetime.timedelta(days=i)) for i in range(train + validation)]
    _write(folder / "training_dates.csv", "training_dates", dates[:train])
    _write(folder / "validation_dates.csv", "validation_dates", dates[train:])
    rng = np.random.default_rng(seed)
    for date in dates:
        seconds = np.sort(rng.integers(0, 3600, size=rng.integers(40, 80)))
        rows = []
        for k, second in enumerate(seconds):
            origin = rng.integers(ZONES)
            destination = (origin + rng.integers(1, ZONES)) % ZONES
            rows.append(f"{k},{second},{origin},{destination}")
        _write(
            folder / "trip_data" / f"trips_{date}.csv", ",pickup_time,pickup_ID,dropoff_ID", rows
        )
    return root


def _write(path: Path, header: str, rows: list[str]) -> None:
    path.write_text("\n".join([header, *rows]) + "\n")
