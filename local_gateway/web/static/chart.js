// One bar for each day. What it shows is in the table beside it; for screen readers the chart is a summary in words.

import { html, svg } from "./vendor/lit-html-3.3.3.min.js";

const HEIGHT = 190, LEFT = 46, BOTTOM = 22, TOP = 8;

export function bars(days, valueOf, format, what) {
  const WIDTH = window.innerWidth > 760 ? 900 : 340;
  const most = Math.max(...days.map(valueOf), 0);
  const top = niceAbove(most);
  const step = (WIDTH - LEFT) / days.length;
  const height = HEIGHT - BOTTOM - TOP;
  const y = (value) => TOP + height * (1 - value / top);
  const every = Math.ceil(days.length / (WIDTH / 112));
  const sum = days.reduce((all, each) => all + valueOf(each), 0);
  return html`
    <svg class="chart" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img"
         aria-label="${what} a day: ${format(sum)} in ${days.length} days, ${format(most)} at most.">
      ${[0, 0.5, 1].map((part) => svg`
        <line x1=${LEFT} x2=${WIDTH} y1=${y(top * part)} y2=${y(top * part)}></line>
        <text x=${LEFT - 8} y=${y(top * part) + 4} text-anchor="end">${format(top * part)}</text>`)}
      ${days.map((each, index) => svg`
        <rect class=${valueOf(each) ? "" : "none"} x=${LEFT + step * index + step * 0.16} width=${step * 0.68} rx="2"
              y=${Math.min(y(valueOf(each)), TOP + height - 1.5)} height=${Math.max(height - (y(valueOf(each)) - TOP), 1.5)}>
          <title>${each.day}: ${format(valueOf(each))}</title></rect>
        ${index % every === 0 ? svg`
          <text x=${LEFT + step * (index + 0.5)} y=${HEIGHT - 5} text-anchor="middle">${each.day.slice(5)}</text>` : ""}`)}
    </svg>`;
}

function niceAbove(value) {
  if (!value) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 10].map((step) => step * power).find((step) => step >= value);
}
