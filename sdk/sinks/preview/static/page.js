// The page of the preview. Each answer of /frame holds one frame's picture and its decisions, so that they
// always belong together; /status holds figures. Whatever fails is tried again for as long as the page is open.
"use strict";
(() => {
  const LATE_MS = 3000;  // without a new picture, and the page says so
  const TIMEOUT_MS = 8000;
  const RETRY_MS = 1000;
  const STATUS_MS = 1000;

  const token = new URLSearchParams(location.search).get("token") ?? "";
  const at = (id) => document.getElementById(id);
  const say = (id, text) => { if (at(id).textContent !== String(text)) at(id).textContent = text; };
  const make = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const percent = (share) => `${(100 * share).toFixed(1)} %`;

  let chosen = null;      // the source that is shown; null is any
  let number = 0;         // of the frame that is shown
  let shownAt = null;     // when its picture was drawn, in ms
  let interval = 0;       // between the last two pictures, in ms
  const problem = { frame: null, status: null };  // why the last request failed
  let status = null;

  async function ask(path) {
    const answer = await fetch(path, {
      headers: { Authorization: `Bearer ${token}` }, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    if (!answer.ok) throw new Error((await answer.text()).trim() || `answer ${answer.status}`);
    return answer;
  }

  const reason = (error) => error.name === "TimeoutError" ? "it does not answer"
    : error instanceof TypeError ? "not reached: has edge-purify ended?" : error.message;

  const decode = (bytes, type) => createImageBitmap(new Blob([bytes], { type }));

  function draw(id, bitmap) {
    const canvas = at(id);
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
      canvas.width = bitmap.width;
      canvas.height = bitmap.height;
    }
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
  }

  async function show(message) {
    const view = new DataView(message);
    const [textSize, pictureSize, pairSize] = [0, 4, 8].map((offset) => view.getUint32(offset));
    const text = new TextDecoder().decode(new Uint8Array(message, 12, textSize));
    const frame = JSON.parse(text);
    const picture = await decode(new Uint8Array(message, 12 + textSize, pictureSize), "image/jpeg");
    const bytes = new Uint8Array(message, 12 + textSize + pictureSize, pairSize);
    const pair = pairSize ? await decode(bytes, bytes[0] === 0x89 ? "image/png" : "image/jpeg") : null;
    draw("live", picture);  // from here on at once, so that nobody sees one frame's picture by another's label
    at("pair-part").hidden = pair === null;
    if (pair !== null) draw("pair", pair);
    decide(frame.records);
    const now = performance.now();
    interval = shownAt === null ? 0 : now - shownAt;
    [number, shownAt] = [frame.number, now];
    at("live").dataset.number = number;
  }

  function row(label, score) {
    const line = make("li", "");
    const bar = make("i", "");
    bar.style.width = `${100 * score}%`;
    line.append(make("span", label), make("span", percent(score)), bar);
    return line;
  }

  function decide(records) {
    const [first] = records;
    const seeded = first.seeded ? ", seeded: these draws protect nothing" : "";
    say("source", `${first.source}, frame ${first.frame}${seeded}`);
    at("live").dataset.frame = at("label").dataset.frame = first.frame;
    at("label").className = first.label === null ? "missing" : first.accepted ? "" : "unsure";
    if (records.length > 1) {
      at("label").className = "";
      say("label", `${records.length} regions`);
      at("top").replaceChildren(...records.map((record) => row(record.label ?? "no label", record.score ?? 0)));
    } else {
      say("label", first.label ?? "no label");
      at("top").replaceChildren(...Object.entries(first.top ?? {}).map(([label, score]) => row(label, score)));
    }
    const error = records.find((record) => record.error !== null)?.error;
    const engines = records.flatMap((record) => record.draws.map((draw) => `${draw.purifier} × ${draw.classifier}`));
    say("draws", error ?? engines.join(", "));
    const suspicions = records.map((record) => record.suspicion).filter((value) => value !== null);
    at("suspicion").hidden = suspicions.length === 0;
    say("suspicion", `suspicion ${percent(Math.max(0, ...suspicions))}`);
  }

  const duration = (seconds) => {
    const parts = [seconds / 3600, seconds / 60 % 60, seconds % 60].map((part) => String(Math.floor(part)));
    return parts.map((part, i) => i ? part.padStart(2, "0") : part).join(":");
  };

  function figures() {
    say("bundle", status.bundle);
    say("rate", status.frames_per_s.toFixed(1));
    for (const name of ["frames", "skipped", "missed"]) say(name, status[name].toLocaleString("en"));
    say("uptime", duration(status.uptime_s));
    at("latency").replaceChildren(...Object.entries(status.latency_ms).map(([stage, times]) => {
      const line = make("tr", "");
      line.append(Object.assign(make("th", stage), { scope: "row" }), ...times.map((ms) => make("td", ms.toFixed(2))));
      return line;
    }));
    tiles(status.sources.filter((source) => source.frames > 0 || source.state !== null));
  }

  const isBad = (source) => source.state === "stalled" || source.state === "failed";

  function tiles(sources) {
    at("sources").hidden = sources.length < 2;
    if (sources.length < 2) return;
    const buttons = at("sources");
    while (buttons.children.length > sources.length) buttons.lastChild.remove();
    while (buttons.children.length < sources.length) buttons.append(make("button", ""));
    sources.forEach((source, i) => {
      const button = buttons.children[i];
      const score = source.score === null ? "" : ` ${percent(source.score)}`;
      const text = `${source.name}: ${isBad(source) ? source.state : (source.label ?? source.state ?? "")}${score}`;
      if (button.textContent !== text) button.textContent = text;
      button.className = isBad(source) ? "bad" : "";
      button.setAttribute("aria-pressed", String(chosen === source.name));
      button.onclick = () => { chosen = chosen === source.name ? null : source.name; number = 0; };
    });
  }

  function judge() {
    const silent = shownAt === null ? null : performance.now() - shownAt;
    const source = status?.sources.find((each) => each.name === chosen) ?? status?.sources[0];
    const several = chosen === null && (status?.sources.length ?? 0) > 1;
    let text = null;
    const failed = problem.frame ?? problem.status;
    if (failed !== null) text = failed;
    else if (silent === null) text = status === null ? "connecting" : status.trouble ?? "waiting for the first frame";
    else if (silent > Math.max(LATE_MS, 2 * interval)) {
      const why = !several && source?.state && source.state !== "live"
        ? `: ${source.state}${source.reason ? `, ${source.reason}` : ""}` : "";
      text = `no new picture for ${Math.round(silent / 1000)} s${why}`;
    } else if (status?.trouble) text = status.trouble;
    at("stage").className = text === null ? "" : "stale";
    at("notice").hidden = text === null;
    say("notice", text ?? "");
    say("state", text === null ? "live" : text);
    at("state").className = text === null ? "good" : "bad";
  }

  async function watch() {
    for (;;) {
      const source = chosen;
      try {
        const query = source === null ? "" : `&source=${encodeURIComponent(source)}`;
        const answer = await ask(`frame?after=${number}${query}`);
        if (answer.status === 200) {
          const message = await answer.arrayBuffer();
          if (source === chosen) await show(message);
        }
        problem.frame = null;
      } catch (error) {
        problem.frame = reason(error);
        number = 0;  // edge-purify may have been started again, and counts from 1
        judge();
        await pause(RETRY_MS);
      }
      if (document.hidden) await pause(RETRY_MS);
    }
  }

  async function look() {
    for (;;) {
      try {
        status = await (await ask("status")).json();
        figures();
        problem.status = null;
      } catch (error) {
        problem.status = reason(error);
      }
      await pause(STATUS_MS);
    }
  }

  setInterval(judge, 500);
  watch();
  look();
})();
