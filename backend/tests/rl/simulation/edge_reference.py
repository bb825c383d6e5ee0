"""Pair features from a `DispatchState` in plain Python: slow, from the definitions in `edges.EDGE`.

Geography is the reference world's (spherical, in double precision); the features stand on rows in
float32 and on a flat map around the base, so that both agree to the accuracy of a map only.
"""

import functools
import math

import numpy as np

from .reference import ReferenceWorld


class EdgeReference:
    """Features of the pairs of one state; ``zones`` is ``(minutes, km)`` for travel by zones."""

    def __init__(self, scenario, state, zones=None):
        self.scenario, self.rules, self.weights = scenario, scenario.rules, scenario.reward
        self.now, self.drivers, self.bookings = state.now_min, state.drivers, state.bookings
        # Only its map is used; a world's bookings are those of the state.
        self.map = ReferenceWorld.__new__(ReferenceWorld)
        self.map.scenario, self.map.rules = scenario, scenario.rules
        self.map.zones, self.map.bookings = zones, state.bookings
        self.zones = zones
        for slow in ("travel", "slack", "onward"):
            setattr(self, slow, functools.cache(getattr(self, slow)))

    def ready(self, d):
        return max(self.now, float(self.drivers["free_at_min"][d]))

    def place(self, d):
        row = self.drivers[d]
        return float(row["lat"]), float(row["lon"]), int(row["zone"])

    def travel(self, d, b):
        ready = self.ready(d)
        return self.map.arrive(ready, self.place(d), self.map.pickup_place(b)) - ready

    def pickup(self, d, b):
        return max(float(self.bookings["promised_min"][b]), self.ready(d) + self.travel(d, b))

    def slack(self, d, b):
        end = float(self.bookings["window_end_min"][b])
        latest = self.map.latest_departure(end, self.place(d), self.map.pickup_place(b))
        return latest - self.ready(d)

    def onward(self, b, c):
        """Minutes from b's dropoff to c's pickup at the day's mean speed."""
        start, stop = self.map.dropoff_place(b), self.map.pickup_place(c)
        if self.zones is not None:
            return float(self.zones[0][start[2]][stop[2]])
        return self.map.km(start, stop) / (np.mean(self.scenario.travel.speed_kmh) / 60)

    def features(self, valid, hold_back=math.inf):
        """``{(d, b): {name: value}}`` of the valid pairs with at most ``hold_back`` slack."""
        shown = [pair for pair in valid if self.slack(*pair) <= hold_back]
        return {(d, b): self._of(d, b, valid, shown) for d, b in shown}

    def _of(self, d, b, valid, shown):
        row, w = self.bookings[b], self.weights
        ready, pickup = self.ready(d), self.pickup(d, b)
        travel = self.travel(d, b)
        promised = float(row["promised_min"])
        late = max(0.0, pickup - float(row["window_end_min"]))
        since = float(row["created_min"]) if row["immediate"] else promised
        weight = w.priority[int(row["priority"]) - 1]
        start, stop = self.map.pickup_place(b), self.map.dropoff_place(b)
        leave = pickup + float(row["pickup_service_min"])
        dropoff = self.map.arrive(leave, start, stop)
        done = dropoff + float(row["dropoff_service_min"])
        worth = w.completion * (weight if math.isnan(row["fare"]) else float(row["fare"]))
        value = (
            worth
            - w.late_per_min * late
            - w.deadhead_per_km * self.map.km(self.place(d), start)
            - w.loaded_per_km * self.map.km(start, stop)
        )
        takers = [other for other, booking in valid if booking == b]
        rivals = [self.pickup(other, b) for other in takers if other != d]
        regret = min(rivals) - pickup if rivals else math.inf
        mine = [booking for driver, booking in shown if driver == d]
        follow_up, demand = self._follow_up(b, done)
        base = self.scenario.place.base
        east = (stop[1] - base.lon) * 111.195 * math.cos(math.radians(base.lat))
        north = (stop[0] - base.lat) * 111.195
        on_duty = int(np.sum(self.drivers["shift_end_min"] < 1e6))
        driver = self.drivers[d]
        features = {
            "value": value / 10,
            "travel_min": travel / 10,
            "late_min": late / 10,
            "wait_min": max(0.0, pickup - since) / 10,
            "idle_min": max(0.0, promised - ready - travel) / 10,
            "slack_min": self.slack(d, b) / 30,
            "busy_min": (ready - self.now) / 10,
            "pickup_in_min": (pickup - self.now) / 30,
            "trip_min": (dropoff - leave) / 10,
            "priority": weight,
            "immediate": float(row["immediate"]),
            "queued": float(driver["committed"] > 0),
            "regret_min": max(-3.0, min(3.0, regret / 10)),
            "detour_min": (travel - min(self.travel(other, b) for other in takers)) / 10,
            "missed_min": (travel - min(self.travel(d, booking) for booking in mine)) / 10,
            "drivers": math.log1p(len(takers)),
            "bookings": math.log1p(len(mine)),
            "follow_up_min": follow_up / 30,
            "demand": demand,
            "shift_left": (float(driver["shift_end_min"]) - done) / 120,
            "end_east": east / 10,
            "end_north": north / 10,
            "end_from_base": math.hypot(east, north) / 10,
            "wheelchair_spare": float(driver["wheelchair"] and not row["wheelchair"]),
            "emergency": float(driver["emergency"]),
            "load": math.log1p(len(self.bookings) / on_duty),
            "day_left": (self.rules.horizon_min - self.now) / 240,
            "bias": 1.0,
        }
        return {name: float(np.clip(value, -10, 10)) for name, value in features.items()}

    def _follow_up(self, b, done):
        """Cost of the cheapest next booking (at most an hour), and how many are near.

        NaN where one is reached within seconds of its end: a rounding decides whether it counts.
        """
        cheapest, near = 60.0, 0.0
        for c in range(len(self.bookings)):
            drive = self.onward(b, c)
            arrive = done + drive
            end = float(self.bookings["window_end_min"][c]) + self.rules.grace_min
            if c != b and self.zones is None and abs(arrive - end) < 0.2:
                return math.nan, math.nan
            if c == b or arrive > end:
                continue
            standing = max(0.0, float(self.bookings["promised_min"][c]) - arrive)
            cost = drive + standing / 2
            cheapest, near = min(cheapest, cost), near + max(0.0, 1 - cost / 30)
        return cheapest, near
