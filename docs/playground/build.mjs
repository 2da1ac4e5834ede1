// Bundles the page into one file, jaxconv/viz/playground.html:  npm ci && npm run build
//
// The file records a digest of its sources, so that a test can tell whether it is up to date.

import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build, transform } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const target = process.argv[2] ?? join(here, "../../jaxconv/viz/playground.html");
const MAX_BYTES = 300_000;

/** All files but the packages, in the order of their paths. */
function sources() {
  const listed = readdirSync(here, { recursive: true, withFileTypes: true });
  const files = listed
    .filter((each) => each.isFile())
    .map((each) => join(each.parentPath, each.name));
  return files
    .map((path) => relative(here, path).replaceAll("\\", "/"))
    .filter((path) => !path.startsWith("node_modules/"))
    .sort();
}

function digest() {
  const hash = createHash("sha256");
  for (const path of sources()) hash.update(`${path}\n`).update(readFileSync(join(here, path)));
  return hash.digest("hex");
}

const bundled = await build({
  entryPoints: [join(here, "main.js")],
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  charset: "utf8",
  write: false,
});
const script = bundled.outputFiles[0].text.replaceAll("</script", "<\\/script").trim();
const style = (
  await transform(readFileSync(join(here, "style.css"), "utf8"), {
    loader: "css",
    minify: true,
    charset: "utf8",
  })
).code.trim();
const parts = {
  digest: `<meta name="sources" content="${digest()}" />`,
  style: `<style>${style}</style>`,
  script: `<script>${script}</script>`,
};
let page = readFileSync(join(here, "index.html"), "utf8");
for (const [name, part] of Object.entries(parts))
  page = page.replace(`<!-- ${name} -->`, () => part);
if (Buffer.byteLength(page) > MAX_BYTES)
  throw new Error(`the page has ${Buffer.byteLength(page)} bytes, more than ${MAX_BYTES}`);
writeFileSync(target, page);
