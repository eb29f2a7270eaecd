"""The Pareto report of a sweep: numbers first (report.json), then one offline page, figures and tables."""

from vsae_search.report.build import build_report
from vsae_search.report.data import ReportData, report_schema
from vsae_search.report.write import ReportPaths, write_report

__all__ = ["ReportData", "ReportPaths", "build_report", "report_schema", "write_report"]
