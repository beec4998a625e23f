"use strict";
(async () => {
  const read = (id) => document.getElementById(id).textContent;
  const charts = JSON.parse(read("charts"));
  const models = JSON.parse(read("models"));
  const probabilities = JSON.parse(read("probabilities"));

  // Which one for so much time: needs no plots.
  const budget = document.getElementById("budget");
  if (budget) {
    const answer = () => {
      const most = parseFloat(budget.value);
      const fits = models.filter((model) => model.at <= most).sort((a, b) => b.accuracy - a.accuracy || a.at - b.at);
      document.getElementById("answer").textContent = !(most > 0) ? "Write a number." : fits.length
        ? `${fits[0].name}: ${fits[0].text}` : "None of these is that fast.";
    };
    budget.addEventListener("input", answer);
    answer();
  }

  const packed = Uint8Array.from(atob(read("plotly").trim()), (letter) => letter.charCodeAt(0));
  if (typeof DecompressionStream === "undefined") return;  // tables are there all the same
  const text = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  const script = document.createElement("script");
  script.textContent = text;
  document.head.append(script);
  document.documentElement.classList.remove("no-script");

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const themed = (value) => {
    if (typeof value === "string" && value.startsWith("--")) return colour(value);
    if (Array.isArray(value)) return value.map(themed);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, themed(v)]));
    return value;
  };
  const axis = () => ({ gridcolor: colour("--line"), linecolor: colour("--line"), zeroline: false, automargin: true, ticks: "" });
  const layout = (own) => {
    const merged = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true, height: 340,
      font: { family: "system-ui, sans-serif", size: 12, color: colour("--faint") },
      margin: { l: 8, r: 14, t: 30, b: 8 },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, hovermode: "closest",
      hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--line"), font: { color: colour("--ink"), size: 13 }, align: "left" },
      ...themed(own),
    };
    for (const name of ["xaxis", "yaxis", "yaxis2"])
      if (name !== "yaxis2" || own[name]) merged[name] = { ...axis(), ...themed(own[name] || {}) };
    return merged;
  };
  const config = { displayModeBar: false, responsive: true };
  const draw = () => Promise.all(charts.map((chart) =>
    Plotly.react(chart.id, themed(chart.data), layout(chart.layout), config)));

  const select = document.getElementById("choice");
  const drawChoice = () => {
    if (!select) return;
    const chosen = probabilities[select.value];
    const colours = ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6"];
    const data = Object.entries(chosen.options).map(([option, y], number) => ({
      x: chosen.epochs, y, name: option, mode: "lines", line: { color: colours[number % 6], width: 2.2, dash: number > 5 ? "dot" : "solid" },
      hovertemplate: `${option}: %{y:.0%} after epoch %{x}<extra></extra>`,
    }));
    return Plotly.react("plot-probability", themed(data), layout({
      xaxis: { title: { text: "epoch" }, ...(chosen.epochs.length <= 12 ? { dtick: 1 } : {}) }, yaxis: { title: { text: "probability" }, tickformat: ".0%", range: [0, 1.02] }, showlegend: true,
    }), config);
  };
  if (select) select.addEventListener("change", drawChoice);
  const all = async () => { await draw(); await drawChoice(); document.documentElement.dataset.drawn = "yes"; };
  await all();
  for (const media of ["(prefers-color-scheme: dark)", "print"]) matchMedia(media).addEventListener("change", all);
})();
