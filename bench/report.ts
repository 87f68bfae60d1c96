// Figures: how they are summed up, printed and kept.
import { mkdirSync, writeFileSync } from "node:fs";
import { loadavg } from "node:os";
import { join } from "node:path";
import { root } from "../scripts/steps.ts";
import { svg, type Panel } from "./plot.ts";
import type { MachineInfo } from "./environment.ts";

/** One measured quantity. */
export interface Figure {
  /** The circumstances, under which figures are listed together. */
  group: string;
  name: string;
  unit: string;
  /** One value a round. */
  samples: number[];
  /** Figures of the same rounds that this one is a multiple of. */
  against?: Figure[];
}

/** The middle of the rounds and their ends. */
export interface Spread {
  median: number;
  min: number;
  max: number;
}

/** What a benchmark gives. */
export interface Report {
  name: string;
  /** What was measured, in a sentence or two. */
  about: string;
  figures: Figure[];
  /** Kept as bench/results/NAME.svg. */
  plot?: Panel[];
}

/** Sums up samples; at least one. */
export function spread(samples: number[]): Spread {
  const sorted = samples.toSorted((a, b) => a - b);
  const at = (index: number) => sorted[Math.min(Math.max(index, 0), sorted.length - 1)] ?? Number.NaN;
  const middle = (sorted.length - 1) / 2;
  return { median: (at(Math.floor(middle)) + at(Math.ceil(middle))) / 2, min: at(0), max: at(sorted.length - 1) };
}

/** One figure as a multiple of another, round by round: what slowed a round slowed both. */
export function ratio(figure: Figure, against: Figure): Spread {
  return spread(figure.samples.map((value, round) => value / (against.samples[round] ?? Number.NaN)));
}

/** The value at this fraction of the sorted values, `0.99` for the 99th percentile. */
export function percentile(values: number[], fraction: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * fraction) - 1)] ?? Number.NaN;
}

/** The figures as lines of a table. */
export function table({ figures }: Report): string {
  const rows = figures.map((figure) => {
    const ratios = (figure.against ?? []).map((other) => `${show(ratio(figure, other))} x ${other.name}`);
    return { group: figure.group, cells: [figure.name, `${show(spread(figure.samples))} ${figure.unit}`, ratios.join("; ")] };
  });
  const widths = [0, 1].map((column) => Math.max(...rows.map(({ cells }) => cells[column]?.length ?? 0)));
  return rows
    .flatMap(({ group, cells }, index) => {
      const line = `  ${cells
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join("  ")
        .trimEnd()}`;
      return group === rows[index - 1]?.group ? [line] : [group, line];
    })
    .join("\n");
}

/** Keeps the report as bench/results/NAME.json, and its plot beside it. */
export function keep({ name, about, figures, plot }: Report, on: MachineInfo): void {
  const told = figures.map((figure) => ({
    group: figure.group,
    name: figure.name,
    unit: figure.unit,
    ...rounded(spread(figure.samples)),
    samples: figure.samples.map(round),
    against: Object.fromEntries((figure.against ?? []).map((other) => [other.name, rounded(ratio(figure, other))])),
  }));
  const load = Number((loadavg()[0] ?? 0).toFixed(1));
  const folder = join(root, "bench", "results");
  mkdirSync(folder, { recursive: true });
  writeFileSync(
    join(folder, `${name}.json`),
    `${JSON.stringify({ name, about, on: { ...on, loadAtEnd: load }, figures: told }, undefined, 2)}\n`,
  );
  if (plot !== undefined) writeFileSync(join(folder, `${name}.svg`), svg(plot));
}

function show({ median, min, max }: Spread): string {
  return min === max ? digits(median) : `${digits(median)} (${digits(min)} - ${digits(max)})`;
}

/** Three digits that count, no more. */
function digits(value: number): string {
  return Math.abs(value) >= 100 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}

function round(value: number): number {
  return Number(value.toPrecision(4));
}

function rounded({ median, min, max }: Spread): Spread {
  return { median: round(median), min: round(min), max: round(max) };
}
