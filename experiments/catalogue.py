"""All tables that can be replayed, by name."""

from . import remark1, table1, table2, table3, table4, table5, table6, table7, table8, table9, theorem3, theorems
from .tables import Table

__all__ = ["IMAGES", "TABLES"]

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        table1.TABLE,
        table2.TABLE,
        table3.TABLE,
        table4.TABLE,
        table5.TABLE,
        table6.TABLE,
        table7.TABLE,
        table8.TABLE,
        table9.TABLE,
        *theorems.TABLES,
        theorem3.TABLE,
        remark1.TABLE,
    )
}
IMAGES = ("table2", "table4", "table9")  # the others are of synthetic data
