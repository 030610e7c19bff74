"""Which encounter belongs to a film: the time rules, as functions from table to table.

`films` have columns film, patient, at (timestamp, may be null); `stays` (admissions or ICU stays) have stay,
patient, begins, ends (timestamps) and order (their place in the file). The result has one row a film that a
stay covers: film, stay, candidates (how many stays cover it).
"""

import ibis


def link_strict(films: ibis.Table, stays: ibis.Table) -> ibis.Table:
    """Full timestamps: a stay covers a film when begins <= at <= ends; the latest to have begun wins.

    Source: METHOD, *our strict rule*. A film without time, or a stay without begin or end, is not linked.
    """
    pairs = films.join(stays, "patient")
    covering = pairs.filter(pairs["begins"] <= pairs["at"], pairs["at"] <= pairs["ends"])
    return _first(covering, [covering["begins"].desc(), covering["order"].desc()])


def link_published(films: ibis.Table, stays: ibis.Table) -> ibis.Table:
    """Calendar dates: date(begins) <= date(at) <= date(ends); the last in table order wins.

    Source: METHOD, *published linking rule*. A film at 08:00 counts for a stay that begins at 20:00 that day.
    """
    pairs = films.join(stays, "patient")
    day = pairs["at"].date()
    covering = pairs.filter(pairs["begins"].date() <= day, day <= pairs["ends"].date())
    return _first(covering, [covering["order"].desc()])


def unlinked(films: ibis.Table, stays: ibis.Table, patients: ibis.Table, links: ibis.Table) -> ibis.Table:
    """Why the other films have no stay: film, reason.

    `no_record` (no such patient), `no_time` (the film has none), `no_admission` (the patient has no stay at all),
    `before_admission` (a stay begins later), `after_discharge` (all stays of the patient are over).
    """
    alone = films.anti_join(links, "film")
    recorded = alone.left_join(patients.select("patient", recorded=True), "patient").drop("patient_right")
    # Some stay begins later where the last one to begin does.
    of_patient = stays.group_by("patient").aggregate(known=stays.count(), latest=stays["begins"].max())
    seen = recorded.left_join(of_patient, "patient").drop("patient_right")
    reason = ibis.cases(
        (seen["recorded"].isnull(), "no_record"),
        (seen["at"].isnull(), "no_time"),
        (seen["known"].isnull(), "no_admission"),
        ((seen["latest"] > seen["at"]).fill_null(False), "before_admission"),
        else_="after_discharge",
    )
    return seen.select("film", reason=reason)


def encounter_begins(admitted: ibis.Value, registered: ibis.Value) -> ibis.Value:
    """The earlier of admission and emergency registration: emergency films precede admission by hours."""
    return ibis.least(admitted, registered.fill_null(admitted))


def _first(covering: ibis.Table, order: list[ibis.Value]) -> ibis.Table:
    ranked = covering.select(
        "film",
        "stay",
        rank=ibis.row_number().over(group_by="film", order_by=order),
        candidates=covering["stay"].count().over(group_by="film"),
    )
    return ranked.filter(ranked["rank"] == 0).drop("rank")
