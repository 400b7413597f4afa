"""A store of pdrec_fast (docs/scale.md) written by Spark, without pdrec_fast on its workers.

    spark-submit prepare_spark.py DATA STORE PARTS

DATA: Parquet with user_id, item_id (integers or text) and timestamp (a number), as Spark names
paths. STORE: a folder that does not exist, where the driver and all workers see it. PARTS: so many
that the records of one fit into a worker's memory. Records of equal time are ordered by item, since
Spark keeps no order of the source. The workers need numpy, pandas and pyarrow.
"""

import json
import os
import sys
import uuid
from pathlib import Path

import numpy as np
import pandas as pd


def write_whole(file, write):
    """A worker may be killed, or do again what another has done: nobody sees half of a file."""
    fresh = file.with_name(f".{uuid.uuid4().hex}{file.suffix}")
    write(fresh)
    os.replace(fresh, file)


def write_array(file, values, dtype):
    write_whole(file, lambda fresh: np.save(fresh, np.asarray(values, dtype)))


def write_ids(base, ids, kind):
    if kind == "int64":
        write_array(Path(f"{base}.npy"), ids, np.int64)
    else:
        table = pd.DataFrame({"id": np.asarray(ids, object)}, dtype="str")
        write_whole(Path(f"{base}.parquet"), lambda fresh: table.to_parquet(fresh, index=False))


def write_part(folder, number, records, kind):
    """One part, from the columns user_id, item (the item's place among the sorted ids), timestamp.

    Returns its line of the card.
    """
    # Sorted here: Spark orders text by UTF-16, a store by code points, as Python does.
    records = records.sort_values(["user_id", "timestamp", "item"], kind="stable")
    users, starts = np.unique(records["user_id"].to_numpy(), return_index=True)
    name = f"part-{number:05}"
    base = Path(folder) / name
    write_array(Path(f"{base}.indptr.npy"), [*starts, len(records)], np.int64)
    write_array(Path(f"{base}.items.npy"), records["item"], np.int32)
    write_array(Path(f"{base}.timestamps.npy"), records["timestamp"], np.float64)
    write_ids(f"{base}.user_ids", users, kind)
    return {"name": name, "n_users": len(users), "n_records": len(records)}


def write_card(folder, lines, kinds, n_items):
    """Last of all: a folder without a card is no store."""
    card = {
        "format": "pdrec_fast store",
        "version": 1,
        "user_ids": kinds["user_id"],
        "item_ids": kinds["item_id"],
        "n_items": n_items,
        "timestamps": True,
        "parts": lines,
    }
    write_whole(Path(folder) / "store.json", lambda fresh: fresh.write_text(json.dumps(card)))


def main(data, store, n_parts):
    from pyspark.sql import SparkSession
    from pyspark.sql import functions as F

    folder = Path(store).resolve()
    folder.mkdir(parents=True)
    spark = SparkSession.builder.getOrCreate()
    records = spark.read.parquet(data).select("user_id", "item_id", "timestamp")
    types = dict(records.dtypes)
    kinds = {name: "str" if types[name] == "string" else "int64" for name in ("user_id", "item_id")}
    items = np.sort(records.select("item_id").distinct().toPandas()["item_id"].to_numpy())
    write_ids(folder / "item_ids", items, kinds["item_id"])
    numbers = pd.DataFrame({"item_id": items, "item": np.arange(len(items))})
    digits = F.substring(F.md5(F.col("user_id").cast("string")), 1, 8)
    part = (F.conv(digits, 16, 10).cast("long") % n_parts).cast("int")

    def write(key, group):
        return pd.DataFrame([{"part": key[0], **write_part(folder, key[0], group, user_kind)}])

    user_kind = kinds["user_id"]
    done = (
        records.join(F.broadcast(spark.createDataFrame(numbers)), "item_id")
        .withColumn("part", part)
        .groupBy("part")
        .applyInPandas(write, "part int, name string, n_users long, n_records long")
        .toPandas()
        .set_index("part")
    )
    nobody = pd.DataFrame({"user_id": [], "item": [], "timestamp": []})
    lines = [
        {key: done.loc[number][key] for key in done.columns}
        if number in done.index
        else write_part(folder, number, nobody, user_kind)
        for number in range(n_parts)
    ]
    lines = [{key: n if key == "name" else int(n) for key, n in line.items()} for line in lines]
    write_card(folder, lines, kinds, len(items))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
