// Figures: how they are compared, printed and saved.
import { mkdirSync, writeFileSync } from "node:fs";
import { loadavg } from "node:os";
import { join } from "node:path";
import { root } from "../scripts/steps.ts";
import type { MachineInfo } from "./environment.ts";
import { svg, type Panel } from "./plot.ts";
import { spread, type Spread } from "./statistics.ts";

/** One measured quantity. */
export interface Figure {
  /** The circumstances. Figures with the same ones are listed together. */
  group: string;
  name: string;
  unit: string;
  /** One value per round. */
  samples: number[];
  /** Figures of the same rounds that this one is compared with. */
  against?: Figure[];
}

/** The result of a benchmark. */
export interface Report {
  name: string;
  /** What was measured, in a sentence or two. */
  about: string;
  figures: Figure[];
  /** Saved as bench/results/NAME.svg. */
  plot?: Panel[];
}

/** One figure as a multiple of another, round by round: whatever slowed a round down slowed both of them down. */
export function ratio(figure: Figure, against: Figure): Spread {
  return spread(figure.samples.map((value, round) => value / (against.samples[round] ?? Number.NaN)));
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

/** Saves the report as bench/results/NAME.json, and its plot next to it. */
export function save({ name, about, figures, plot }: Report, on: MachineInfo): void {
  const summaries = figures.map((figure) => ({
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
    `${JSON.stringify({ name, about, on: { ...on, loadAtEnd: load }, figures: summaries }, undefined, 2)}\n`,
  );
  if (plot !== undefined) writeFileSync(join(folder, `${name}.svg`), svg(plot));
}

function show({ median, min, max }: Spread): string {
  return min === max ? digits(median) : `${digits(median)} (${digits(min)} - ${digits(max)})`;
}

/** Three significant digits. */
function digits(value: number): string {
  return Math.abs(value) >= 100 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}

function round(value: number): number {
  return Number(value.toPrecision(4));
}

function rounded({ median, min, max }: Spread): Spread {
  return { median: round(median), min: round(min), max: round(max) };
}
