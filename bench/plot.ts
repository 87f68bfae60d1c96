// A plot, written as SVG by hand: lines over logarithmic axes, with the panels side by side.
import type { Spread } from "./statistics.ts";

/** One line. */
export interface Series {
  name: string;
  points: { x: number; y: Spread }[];
}

/** One panel. */
export interface Panel {
  title: string;
  x: string;
  y: string;
  series: Series[];
}

const [width, height, margin] = [440, 330, { left: 64, right: 16, top: 56, bottom: 48 }];
const colours = ["#2563eb", "#dc2626", "#059669", "#9333ea", "#d97706"];

/** The panels as one SVG document. The bar at each point reaches from the minimum to the maximum. */
export function svg(panels: Panel[]): string {
  const drawn = panels.map((panel, nth) => `<g transform="translate(${nth * width} 0)">${draw(panel)}</g>`);
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width * panels.length} ${height}" font-family="sans-serif" font-size="11">
<rect width="100%" height="100%" fill="white"/>
${drawn.join("\n")}
</svg>
`;
}

function draw({ title, x, y, series }: Panel): string {
  const points = series.flatMap((line) => line.points);
  const across = axis(
    points.map((point) => point.x),
    margin.left,
    width - margin.right,
  );
  const up = axis(
    points.flatMap(({ y }) => [y.min, y.max]),
    height - margin.bottom,
    margin.top,
  );
  const grid = [
    ...across.ticks.map(
      (value) =>
        `<path d="M${across.at(value)} ${margin.top}V${height - margin.bottom}" stroke="#e5e7eb"/>${text(across.at(value), height - margin.bottom + 15, short(value), "middle")}`,
    ),
    ...up.ticks.map(
      (value) =>
        `<path d="M${margin.left} ${up.at(value)}H${width - margin.right}" stroke="#e5e7eb"/>${text(margin.left - 6, up.at(value) + 4, short(value), "end")}`,
    ),
  ];
  const lines = series.map((line, nth) => {
    const colour = colours[nth % colours.length];
    const path = line.points.map((point, index) => `${index === 0 ? "M" : "L"}${across.at(point.x)} ${up.at(point.y.median)}`).join("");
    const bars = line.points.map(
      ({ x, y }) =>
        `<path d="M${across.at(x)} ${up.at(y.min)}V${up.at(y.max)}" stroke="${colour}"/><circle cx="${across.at(x)}" cy="${up.at(y.median)}" r="3" fill="${colour}"/>`,
    );
    const keyAt = margin.left + (nth * (width - margin.left - margin.right)) / series.length;
    const key = `<rect x="${keyAt}" y="38" width="10" height="3" fill="${colour}"/>${text(keyAt + 14, 43, line.name, "start")}`;
    return `<path d="${path}" fill="none" stroke="${colour}" stroke-width="2"/>${bars.join("")}${key}`;
  });
  const labels = [
    `<text x="${width / 2}" y="20" text-anchor="middle" font-size="13" font-weight="bold">${title}</text>`,
    text((margin.left + width - margin.right) / 2, height - 12, x, "middle"),
    `<text transform="translate(14 ${height / 2}) rotate(-90)" text-anchor="middle">${y}</text>`,
  ];
  return [...grid, ...lines, ...labels].join("\n");
}

/** A logarithmic axis between powers of ten. */
function axis(values: number[], from: number, to: number) {
  const low = Math.floor(Math.log10(Math.min(...values)));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values))));
  return {
    ticks: Array.from({ length: high - low + 1 }, (_, index) => 10 ** (low + index)),
    at: (value: number) => Math.round((from + ((Math.log10(value) - low) / (high - low)) * (to - from)) * 10) / 10,
  };
}

function text(x: number, y: number, content: string, anchor: "start" | "middle" | "end"): string {
  return `<text x="${x}" y="${y}" text-anchor="${anchor}">${content}</text>`;
}

function short(value: number): string {
  if (value >= 1_000_000) return `${value / 1_000_000} M`;
  return value >= 1_000 ? `${value / 1_000} k` : String(Number(value.toPrecision(3)));
}
