"use strict";
// The sample browser: prompts with their samples, filtered and a page at a time.

(() => {
  const PER_PAGE = 10;
  const raw = JSON.parse(document.getElementById("page-samples").textContent);

  /** The rows of a table as objects; prompts, answers and completions are numbers of texts. */
  function table(name) {
    const columns = raw.columns[name];
    const isText = columns.map((column) => ["prompt", "answer", "completion"].includes(column));
    return raw[name].map((row) =>
      Object.fromEntries(columns.map((column, i) => [column, isText[i] ? raw.texts[row[i]] : row[i]])),
    );
  }

  const files = table("files");
  const problems = table("problems");
  const groups = table("groups").map((group) => ({
    ...problems[group.problem],
    ...files[group.file],
    ...group,
    success: group.n ? (100 * group.c) / group.n : null,
    samples: [],
  }));
  for (const sample of table("samples")) groups[sample.group].samples.push(sample);

  const splits = { train: "training", heldout: "held out" };
  const seeds = page.several_seeds || new Set(files.map((file) => file.seed)).size > 1;
  const runOf = (g) => (page.titles[g.source] ?? g.source) + (seeds && g.seed !== null && g.seed !== "" ? `, seed ${g.seed}` : "");
  const choices = (values) => [...new Set(values)].filter((value) => value !== "" && value !== null);
  const verdicts = choices(groups.flatMap((group) => group.samples.map((sample) => sample.reason)));
  const controls = {};
  let at = 0;
  let matching = [];

  function select(name, label, options) {
    const control = make("select", { id: `filter-${name}` }, make("option", { value: "" }, "all"));
    for (const option of options) control.append(make("option", { value: option }, String(option)));
    controls[name] = control;
    return make("div", {}, make("label", { htmlFor: control.id }, label), control);
  }

  function range(name, label, most) {
    const inputs = ["from", "to"].map((end) => {
      const input = make("input", { type: "number", min: 0, step: "any", id: `filter-${name}-${end}` });
      if (most) input.max = most;
      input.setAttribute("aria-label", `${label} ${end}`);
      input.placeholder = end === "from" ? "0" : most || "any";
      controls[`${name}-${end}`] = input;
      return input;
    });
    const row = make("div", {}, inputs[0], make("span", {}, "to"), inputs[1]);
    return make("fieldset", {}, make("legend", {}, label), row);
  }

  function search() {
    const input = make("input", { type: "search", id: "filter-text" });
    controls.text = input;
    return make("div", {}, make("label", { htmlFor: input.id }, "Text"), input);
  }

  const numeric = (a, b) => a - b;
  const weights = groups.some((group) => group.weight !== null);
  const clear = make("button", { type: "button" }, "Clear filters");
  const form = make(
    "form",
    { className: "filters" },
    select("run", "Run", choices(groups.map(runOf))),
    select("step", "Step", choices(groups.map((group) => group.step)).sort(numeric)),
    select("split", "Problems", choices(groups.map((group) => splits[group.split] ?? group.split))),
    select("kind", "Kind", choices(groups.map((group) => group.kind)).sort()),
    select("verdict", "Verdict", verdicts.sort()),
    range("success", "Success (%)", "100"),
    ...(weights ? [range("weight", "Weight")] : []),
    search(),
    clear,
  );
  form.setAttribute("role", "search");
  form.setAttribute("aria-label", "Filter the samples");

  /** The groups that pass the filters, each with the samples of it that do. */
  function filtered() {
    const value = (name) => controls[name]?.value ?? "";
    const within = (number, name) => {
      const [low, high] = [value(`${name}-from`), value(`${name}-to`)];
      if (low === "" && high === "") return true;
      return number !== null && number >= Number(low || 0) && number <= Number(high || Infinity);
    };
    const text = value("text").toLowerCase();
    const found = [];
    for (const group of groups) {
      if (value("run") && runOf(group) !== value("run")) continue;
      if (value("step") && String(group.step) !== value("step")) continue;
      if (value("split") && (splits[group.split] ?? group.split) !== value("split")) continue;
      if (value("kind") && group.kind !== value("kind")) continue;
      if (!within(group.success, "success") || !within(group.weight, "weight")) continue;
      const about = [group.problem_id, group.prompt, group.answer].join("\n").toLowerCase();
      const samples = group.samples.filter(
        (sample) =>
          (!value("verdict") || sample.reason === value("verdict")) &&
          (!text || about.includes(text) || sample.completion.toLowerCase().includes(text)),
      );
      if (samples.length) found.push({ group, samples });
    }
    return found;
  }

  const digits = (value) => {
    if (value === null || value === undefined) return "";
    const text = Number(value).toFixed(2);
    return Number(text) === 0 ? "0.00" : text.replace("-", "\u2212"); // no minus before nothing
  };

  function sampleItem(sample) {
    const judged = sample.reward === null ? "unjudged" : sample.reward > 0 ? "right" : "wrong";
    const facts = [
      sample.count > 1 ? `${sample.count} times` : "",
      `${sample.num_tokens} tokens${sample.finish_reason === "length" ? ", cut at the limit" : ""}`,
      sample.logprob_sampler === null ? "" : `log-prob. ${digits(sample.logprob_sampler)}`,
      sample.logprob_learner === null ? "" : `learner's ${digits(sample.logprob_learner)}`,
      sample.advantage === null ? "" : `advantage ${digits(sample.advantage)}`,
    ];
    const mark = { right: "\u2713 ", wrong: "\u2717 ", unjudged: "? " }[judged];
    const verdict = make("span", { className: `verdict ${judged}` }, mark + sample.reason);
    const line = make("p", {}, verdict, facts.filter(Boolean).map((fact) => ` \u00b7 ${fact}`).join(""));
    return make("li", {}, line, make("div", { className: "completion" }, sample.completion));
  }

  function card({ group, samples }) {
    const facts = [
      group.kind,
      `${runOf(group)}, step ${group.step}${group.split === "heldout" ? ", held out" : ""}`,
      group.n ? `${group.c} of ${group.n} right` : "none judged",
      group.weight === null ? "" : `weight ${digits(group.weight)}`,
    ];
    const heading = make("h3", {}, `${group.problem_id} `);
    heading.append(make("small", {}, facts.filter(Boolean).join(" \u00b7 ")));
    const parts = [heading];
    if (group.prompt) parts.push(make("div", { className: "text" }, group.prompt));
    if (group.answer) parts.push(make("p", { className: "note" }, `Gold answer: ${group.answer}`));
    return make("article", { className: "problem" }, ...parts, make("ol", {}, ...samples.map(sampleItem)));
  }

  const list = make("div");
  const count = make("output");
  count.setAttribute("aria-live", "polite");
  const before = make("button", { type: "button" }, "Previous");
  const after = make("button", { type: "button" }, "Next");
  const box = document.getElementById("browser");

  const many = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

  function show() {
    const pages = Math.max(1, Math.ceil(matching.length / PER_PAGE));
    at = Math.min(at, pages - 1);
    list.replaceChildren(...matching.slice(at * PER_PAGE, (at + 1) * PER_PAGE).map(card));
    const shown = matching.reduce((sum, { samples }) => sum + samples.reduce((n, s) => n + s.count, 0), 0);
    count.textContent = `${many(matching.length, "prompt")}, ${many(shown, "sample")} \u00b7 page ${at + 1} of ${pages}`;
    before.disabled = at === 0;
    after.disabled = at === pages - 1;
  }

  function turn(by) {
    at += by;
    show();
    box.scrollIntoView();
  }

  /** The filters stand in the address, so that a view can be kept and sent. */
  function remember() {
    const words = new URLSearchParams();
    for (const [name, control] of Object.entries(controls)) {
      if (control.value) words.set(name, control.value);
    }
    history.replaceState(null, "", words.size ? `#samples?${words}` : "#samples");
  }

  function recall() {
    const [place, words] = location.hash.split("?");
    if (place !== "#samples" || !words) return;
    for (const [name, value] of new URLSearchParams(words)) {
      if (controls[name]) controls[name].value = value;
    }
    box.scrollIntoView();
  }

  function update() {
    at = 0;
    matching = filtered();
    show();
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    update();
    remember();
  });
  clear.addEventListener("click", () => {
    form.reset();
    update();
    remember();
  });
  before.addEventListener("click", () => turn(-1));
  after.addEventListener("click", () => turn(1));
  box.append(form, make("div", { className: "pager" }, before, after, count), list);
  recall();
  update();
})();
