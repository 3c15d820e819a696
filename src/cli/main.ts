#!/usr/bin/env node
import { signals, signalUseOf } from './signals.js'

// Only the signals are imported above, because all static imports are loaded before this line runs.
const words = process.argv.slice(2)
signals.takeOver(signalUseOf(words))
const { run } = await import('./commands.js')
await run(words)
