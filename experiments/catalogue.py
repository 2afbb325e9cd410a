"""All tables that can be replayed, by name."""

from . import remark1, table1, table3, table5, table6, table7, table8, theorems
from .tables import Table

__all__ = ["TABLES"]

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        table1.TABLE,
        table3.TABLE,
        table5.TABLE,
        table6.TABLE,
        table7.TABLE,
        table8.TABLE,
        *theorems.TABLES,
        remark1.TABLE,
    )
}
