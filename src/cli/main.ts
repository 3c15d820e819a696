#!/usr/bin/env node
import { signals, signalUseOf } from './signals.js'

// Nothing but the signals is imported above, because everything imported there is loaded before this line runs.
const words = process.argv.slice(2)
signals.takeOver(signalUseOf(words))
const { run } = await import('./commands.js')
await run(words)
