"""The rules of an undisturbed day in plain Python: slow, simple, obviously right.

Written from the contract (design, section 3) for tests only; it shares no code with the engine.
A job's times are fixed when it is committed, so the whole world is a list of jobs.
"""

import math
from dataclasses import dataclass


@dataclass
class Job:
    booking: int
    driver: int
    committed_at: float
    depart: float
    pickup: float
    done: float
    empty_km: float
    trip_km: float
    late: float


class ReferenceWorld:
    """One day; ``zones`` is ``(minutes, km)`` where travel is by zone matrices."""

    def __init__(self, scenario, day, zones=None):
        self.scenario, self.rules, self.weights = scenario, scenario.rules, scenario.reward
        self.bookings, self.drivers, self.zones = day.bookings, day.drivers, zones
        self.now, self.steps, self.ended = 0.0, 0, False
        self.jobs = []
        self.lost = {}  # booking -> time
        self.known = set()
        self._reveal()

    # --- geography -----------------------------------------------------------------------------

    def km(self, a, b):
        """Road kilometres between two (lat, lon, zone)."""
        if self.zones is not None:
            return float(self.zones[1][a[2]][b[2]])
        lat1, lon1, lat2, lon2 = map(math.radians, (a[0], a[1], b[0], b[1]))
        h = (
            math.sin((lat2 - lat1) / 2) ** 2
            + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
        )
        return self.scenario.travel.circuity * 2 * 6371.0088 * math.asin(min(1.0, math.sqrt(h)))

    def arrive(self, depart, a, b):
        """Drive from hour to hour at each hour's speed."""
        if self.zones is not None:
            return depart + float(self.zones[0][a[2]][b[2]])
        left, clock = self.km(a, b), depart + self.rules.day_start_min
        while True:
            speed = self.scenario.travel.speed_kmh[math.floor(clock / 60) % 24] / 60
            hour_ends = 60 * (math.floor(clock / 60) + 1)
            if clock + left / speed <= hour_ends:
                return clock + left / speed - self.rules.day_start_min
            left -= (hour_ends - clock) * speed
            clock = hour_ends

    def latest_departure(self, arrive_by, a, b):
        """By bisection: arrivals increase with departures."""
        low, high = arrive_by - 600, arrive_by
        for _ in range(70):
            middle = (low + high) / 2
            if self.arrive(middle, a, b) <= arrive_by:
                low = middle
            else:
                high = middle
        return low

    def pickup_place(self, b):
        row = self.bookings[b]
        return float(row["pickup_lat"]), float(row["pickup_lon"]), int(row["pickup_zone"])

    def dropoff_place(self, b):
        row = self.bookings[b]
        return float(row["dropoff_lat"]), float(row["dropoff_lon"]), int(row["dropoff_zone"])

    # --- what a driver could do ----------------------------------------------------------------

    def queue_of(self, d):
        return [job for job in self.jobs if job.driver == d and job.done > self.now]

    def work_ends(self, d):
        """Place and time at which all that the driver has taken on is done."""
        mine = [job for job in self.jobs if job.driver == d]
        if mine:
            return self.dropoff_place(mine[-1].booking), mine[-1].done
        row = self.drivers[d]
        return (float(row["lat"]), float(row["lon"]), int(row["zone"])), float(
            row["shift_start_min"]
        )

    def plan(self, d, b):
        """The job if booking b were given to driver d now, whether allowed or not."""
        row = self.bookings[b]
        place, free = self.work_ends(d)
        start, stop = self.pickup_place(b), self.dropoff_place(b)
        earliest = max(self.now, free)
        promised = float(row["promised_min"])
        pickup = max(promised, self.arrive(earliest, place, start))
        depart = earliest
        if promised > earliest:
            depart = max(earliest, self.latest_departure(promised, place, start))
        dropoff = self.arrive(pickup + float(row["pickup_service_min"]), start, stop)
        return Job(
            b,
            d,
            self.now,
            depart,
            pickup,
            dropoff + float(row["dropoff_service_min"]),
            self.km(place, start),
            self.km(start, stop),
            max(0.0, pickup - float(row["window_end_min"])),
        )

    def slack(self, d, b):
        """Minutes by which an assignment is allowed (negative: it is not)."""
        row, driver = self.bookings[b], self.drivers[d]
        if row["wheelchair"] and not driver["wheelchair"]:
            return -math.inf
        if driver["emergency"] and row["priority"] < self.rules.emergency_min_priority:
            return -math.inf
        if len(self.queue_of(d)) >= 1 + self.rules.queue:
            return -math.inf
        job = self.plan(d, b)
        return min(
            float(row["window_end_min"]) + self.rules.grace_min - job.pickup,
            float(driver["shift_end_min"]) + self.rules.overtime_min - job.done,
        )

    def open(self):
        taken = {job.booking for job in self.jobs}
        return sorted(b for b in self.known if b not in taken and b not in self.lost)

    # --- what happens --------------------------------------------------------------------------

    def assign(self, d, b):
        assert b in self.open()
        self.jobs.append(self.plan(d, b))
        self.steps += 1

    def wait(self):
        """Move to the next epoch; returns the reward terms booked on the way."""
        before, self.steps = self.now, self.steps + 1
        self.now = min(before + self.rules.epoch_min, self.rules.horizon_min)
        last = self.now >= self.rules.horizon_min
        for b in self.open():
            expiry = float(self.bookings[b]["window_end_min"]) + self.rules.grace_min
            if last or self.rules.decide_once or self.now > expiry:
                self.lost[b] = self.now
        if last:
            for b in range(len(self.bookings)):
                if b not in self.known:
                    self.lost[b] = self.now
            self.ended = True
        else:
            self._reveal()
        return self._terms(before, math.inf if last else self.now)

    def _reveal(self):
        self.known |= {
            b for b in range(len(self.bookings)) if self.bookings[b]["created_min"] <= self.now
        }

    def weight(self, b):
        return self.weights.priority[int(self.bookings[b]["priority"]) - 1]

    def _terms(self, after, until):
        w = self.weights
        terms = {"completion": 0.0, "lateness": 0.0, "deadhead": 0.0, "loaded": 0.0}
        for job in self.jobs:
            if after < job.pickup <= until:
                terms["lateness"] -= w.late_per_min * job.late
                terms["deadhead"] -= w.deadhead_per_km * job.empty_km
            if after < job.done <= until:
                fare = float(self.bookings[job.booking]["fare"])
                worth = self.weight(job.booking) if math.isnan(fare) else fare
                terms["completion"] += w.completion * worth
                terms["loaded"] -= w.loaded_per_km * job.trip_km
        losses = [b for b, time in self.lost.items() if after < time <= until]
        terms["cancellation"] = -w.cancellation * sum(self.weight(b) for b in losses)
        return terms

    # --- the day's figures ---------------------------------------------------------------------

    def kpis(self):
        due, waits, score = len(self.bookings), [], 0.0
        for job in self.jobs:
            row = self.bookings[job.booking]
            since = float(row["created_min"] if row["immediate"] else row["promised_min"])
            wait = max(0.0, job.pickup - since)
            waits.append(wait)
            score += min(5.0, max(1.0, 5 - job.late / 7.5 - max(0.0, wait - 15) / 15))
        score += len(self.lost)
        on_time = sum(wait <= self.rules.on_time_min + 1e-9 for wait in waits)
        empty = sum(job.empty_km for job in self.jobs)
        loaded = sum(job.trip_km for job in self.jobs)
        hours = sum(float(d["shift_end_min"] - d["shift_start_min"]) for d in self.drivers) / 60
        served = len(waits)
        total = self._terms(-math.inf, math.inf)
        return {
            "reward": sum(total.values()),
            "bookings_due": due,
            "completed": served,
            "completion_pct": 100 * served / due if due else 100.0,
            "on_time_pct": 100 * on_time / due if due else 100.0,
            "late_pct": 100 * (served - on_time) / due if due else 0.0,
            "unserved": len(self.lost),
            "deadhead_km": empty,
            "total_km": empty + loaded,
            "deadhead_km_per_trip": empty / max(1, served),
            "total_km_per_trip": (empty + loaded) / max(1, served),
            "wait_mean_min": sum(waits) / max(1, served),
            "trips_per_vehicle_hour": served / hours,
            "satisfaction": score / due if due else 5.0,
            "steps": self.steps,
        }
