// The suite's own code, called from outside: reads its tests, or runs them.
//
//   node http_suite.mjs CHECKOUT OUT                        writes {tests, index} to OUT
//   node http_suite.mjs CHECKOUT OUT BASE CHUNK DUMP ID...  runs these tests against BASE, writes the results to OUT

import fs from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const [checkout, out, base, chunk, dump, ...ids] = process.argv.slice(2)
const load = file => import(pathToFileURL(path.join(checkout, file)))

const tests = (await load('tests/index.mjs')).default

if (base === undefined) {
  const index = (await load('results/index.mjs')).default
  fs.writeFileSync(out, JSON.stringify({ tests, index }))
} else {
  console.log = console.error // standard output is for the figures
  const { runTests, getResults } = await load('test-engine/client/runner.mjs')
  const wanted = new Set(ids)
  const chosen = tests.map(suite => ({ ...suite, tests: suite.tests.filter(test => wanted.has(test.id)) }))
  chosen.forEach(suite => suite.tests.forEach(test => { test.dump = dump === 'dump' }))
  let progress
  if (process.stderr.isTTY && dump !== 'dump') {
    progress = setInterval(() => {
      process.stderr.write(`\r${Object.keys(getResults()).length} of ${wanted.size} `)
    }, 200)
  }
  await runTests(chosen, false, base, Number(chunk))
  clearInterval(progress)
  if (progress) process.stderr.write('\r\x1b[K')
  fs.writeFileSync(out, JSON.stringify(getResults()))
}
// A connection that is still open must not keep us.
process.exit(0)
