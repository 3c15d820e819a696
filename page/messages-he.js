/** @import { Formats } from './formats.js' */
/** @import { Confidence, Messages } from './messages-en.js' */
/** @import { Cause, Phase } from './shapes.d.ts' */

// A line of Hebrew must not break inside a Latin name: its parts would then read in the wrong order. A word joiner after
// the hyphen, or a space that does not break, keeps it together.
const SERVER = 'focus-\u2060server'
const PROXY = 'focus-\u2060breaker'
const CONFIGURE = 'POST\u00a0/configure'

/**
 * Every text of the pages, in Hebrew. The terms: fiber סיב, job משימה, probe דגימה, reading קריאה, outage השבתה,
 * override עקיפה, guarded request בקשה מוגנת, test run הרצת בדיקות.
 *
 * @param {Pick<Formats, 'count' | 'duration' | 'seconds' | 'plural'>} formats
 * @returns {Messages}
 */
export const hebrew = ({ count, duration, seconds, plural }) => {
  /** @param {number} value */
  const requests = value => plural(value, { one: 'בקשה אחת', two: 'שתי בקשות', other: '# בקשות' })
  /** @param {number} value */
  const outages = value => plural(value, { one: 'השבתה אחת', two: 'שתי השבתות', other: '# השבתות' })
  /** @param {number} value */
  const wereRefused = value => plural(value, { one: 'נדחתה', other: 'נדחו' })
  /** @param {number} value */
  const wouldBeRefused = value => plural(value, { one: 'הייתה נדחית', other: 'היו נדחות' })

  /** @param {number} value */
  const wouldHaveBeen = value =>
    plural(value, { one: 'אחת הייתה נדחית', two: 'שתיים היו נדחות', other: '# היו נדחות' })

  /** @param {number} value */
  const theyCame = value => plural(value, { one: 'היא הגיעה', other: 'הן הגיעו' })

  /** @type {(refused: number, wouldRefuse: number) => string} */
  const refusedSentence = (refused, wouldRefuse) => {
    const words = refused === 0 ? 'לא נדחו בקשות' : `${requests(refused)} ${wereRefused(refused)}`
    if (wouldRefuse === 0) return `${words}.`
    const observed = `${requests(wouldRefuse)} ${wouldBeRefused(wouldRefuse)}`
    return refused === 0 ? `${observed}.` : `${words}; ${observed}.`
  }

  /** A name inside a plain text keeps its own direction. @param {string} words */
  const isolated = words => `\u2068${words}\u2069`

  /** @type {Record<Phase | 'unknown', string>} */
  const legend = {
    ready: 'מוכן',
    waiting: 'ממתין לסיב',
    unreachable: 'אין גישה למטאדאטה',
    recovering: 'בהתאוששות',
    starting: 'בהפעלה',
    stopped: 'עצירה בהוראת מפעיל',
    maintenance: 'תחזוקה מתוכננת',
    'let-through': 'מעבר חופשי בהוראת מפעיל',
    'not-running': `${PROXY} לא פעל`,
    unknown: 'לא ידוע',
  }
  /** @type {Record<Phase, string>} */
  const phases = {
    ready: 'מוכן',
    waiting: 'ממתין לסיב',
    unreachable: 'לא ניתן לקרוא את המטאדאטה',
    recovering: 'בהתאוששות',
    starting: 'בהפעלה',
    stopped: 'עצירה בהוראת מפעיל',
    maintenance: 'תחזוקה מתוכננת',
    'let-through': 'מעבר חופשי בהוראת מפעיל',
    'not-running': `${PROXY} לא פעל`,
  }
  /** @type {Record<Cause, string>} */
  const forecastCauses = {
    waiting: ' בגלל סיב לא מחובר',
    unreachable: ' בגלל מטאדאטה שלא ניתן לקרוא',
    starting: '',
  }
  /** @type {Record<Confidence, string>} */
  const confidences = { low: 'הערכה גסה, על סמך', fair: 'הערכה על סמך', good: 'הערכה טובה, על סמך' }
  /** @type {Record<string, string>} */
  const overrideEnds = { expired: ', פג תוקפה', removed: ', הוסרה', replaced: ', הוחלפה' }

  return {
    // Around the page
    languageName: 'עברית',
    languages: 'שפה',
    skip: 'דילוג אל המצב',
    connecting: 'מתחבר…',
    live: 'בזמן אמת',
    noContact: `אין קשר עם ${PROXY}. מנסה שוב…`,
    noContactSince: time => [`אין קשר עם ${PROXY} מאז `, time, '. הדף מציג את המצב באותו זמן. מנסה שוב…'],
    asOf: time => ['עודכן ב-', time],
    title: (headline, name) =>
      [headline, ...(name === undefined ? [] : [isolated(name)]), 'focus-breaker'].join(' – '),
    titleNoContact: 'אין קשר',
    about: (version, zone) => [`${PROXY} `, version, ', השעות לפי ', zone],
    machinesLabel: 'לתוכנות',

    // The state
    clientsNode: 'לקוחות',
    fiberNode: 'סיב',
    ready: 'מוכן',
    waiting: 'ממתין לסיב',
    unreachable: `לא ניתן לקרוא את המטאדאטה של ${SERVER}`,
    recovering: 'בהתאוששות',
    recoveringNext: 'בהתאוששות: נדרשת עוד דגימה מוצלחת אחת',
    starting: 'בהפעלה: אין עדיין קריאה',
    recoveringNextClause: 'בהתאוששות, נדרשת עוד דגימה מוצלחת אחת',
    startingClause: 'בהפעלה, אין עדיין קריאה',
    stopped: 'עצירה בהוראת מפעיל',
    maintenance: 'תחזוקה מתוכננת',
    letThrough: 'מעבר חופשי בהוראת מפעיל',
    since: (time, running) => ['מאז ', time, ' (', running, ')'],
    withinOutage: since => [', בתוך השבתה שנמשכת ', ...since],
    until: (time, running) => ['עד ', time, ' (בעוד ', running, ')'],
    ago: length => `לפני ${length}`,
    observing: 'מצב צפייה (observe): שום בקשה אינה נדחית',

    // What the states mean
    meaningTitle: 'מה פירוש סגור, פתוח ובהתאוששות (half-open)',
    meaningClosed: 'סגור (closed)',
    meaningClosedIs: `בדף מופיע ״מוכן״. הסיב מחובר, וכל הבקשות מגיעות אל ${SERVER}. אפשר להריץ בדיקות.`,
    meaningOpen: 'פתוח (open)',
    meaningOpenIs: `בדף מופיע ״ממתין לסיב״, או שלא ניתן לקרוא את המטאדאטה של ${SERVER}. בקשה מוגנת, כלומר בקשה שמתחילה משימה (${CONFIGURE}), מקבלת מיד תשובת 503 ואינה מגיעה אל ${SERVER}. כל שאר הבקשות מועברות כרגיל. הבדיקה שלכם תקינה: המתינו עד שבדף יופיע ״מוכן״, והריצו אותה שוב.`,
    meaningRecovering: 'בהתאוששות (half-open)',
    meaningRecoveringIs: `הסיב שוב מחובר. בקשות מוגנות מתקבלות בהדרגה, כדי שהלקוחות שהמתינו לא יציפו את ${SERVER}. חלק מהבקשות עדיין מקבלות תשובת 503: נסו שוב אחרי מספר השניות שבכותרת Retry-After, או המתינו עד שבדף יופיע ״מוכן״.`,
    meaningWhy:
      'המונחים לקוחים מעולם החשמל: במעגל סגור הזרם עובר, ובמעגל פתוח הוא אינו עובר. מפעיל יכול לעקוף את המצב.',

    // The notes below the state
    allRefused: 'כל בקשה מוגנת נדחית, בכל מצב של הסיב. ',
    allWouldBeRefused: 'כל בקשה מוגנת הייתה נדחית, בכל מצב של הסיב. ',
    noneRefused: 'שום בקשה אינה נדחית, בכל מצב של הסיב. ',
    overrideSetAt: (time, by, silent) => [
      'הוגדר ב-',
      time,
      ' על ידי ',
      by,
      silent ? '. לא נשלחת התראה.' : '.',
    ],
    readingsSay: (headline, since) => ['המצב לפי הקריאות: ', headline, ', ', ...since, '.'],
    jobsCanStart: 'הסיב מחובר. אפשר להתחיל משימות.',
    jobsMayStart: 'בקשות מתקבלות.',
    full: 'עמוס כרגע:',
    fullWhy: ' מספר הבקשות המוגנות שבטיפול הגיע למגבלה.',
    lastOutage: (time, durationMs, refused, wouldRefuse) => [
      'ההשבתה האחרונה הסתיימה ב-',
      time,
      ` ונמשכה ${duration(durationMs)}. ${refusedSentence(refused, wouldRefuse)}`,
    ],
    requests,
    noneRefusedYet: 'עדיין לא נדחו בקשות.',
    refusedAndSpared: (requestsNode, refused, spared, isUp) => {
      const which =
        spared === 0
          ? '.'
          : spared < refused
            ? `, ${plural(spared, { one: 'אחת', two: 'שתיים', other: '#' })} מהן בזמן ש-${SERVER} פעל.`
            : isUp
              ? ` ולא הגיעו אל ${SERVER}.`
              : ` בזמן ש-${SERVER} פעל.`
      const whichOne = refused === 1 && spared === 1 && isUp ? ` ולא הגיעה אל ${SERVER}.` : which
      return [requestsNode, ` ${wereRefused(refused)}${whichOne}`]
    },
    wouldRefuseNone: since => ['מאז ', since, ' לא הייתה בקשה שהייתה נדחית.'],
    wouldHaveBeenRefused: (requestsNode, refused, since, clients, more, option) => [
      requestsNode,
      ` ${wouldBeRefused(refused)} מאז `,
      since,
      clients === 0
        ? ''
        : more
          ? plural(clients, {
              one: ', מיותר מלקוח אחד',
              two: ', מיותר משני לקוחות',
              other: ', מיותר מ-# לקוחות',
            })
          : plural(clients, { one: ', מלקוח אחד', two: ', משני לקוחות', other: ', מ-# לקוחות' }),
      `; ${refused === 1 ? 'היא הועברה' : 'כולן הועברו'} אל ${SERVER}. כדי לדחות בקשות כאלה, הגדירו את `,
      option,
      ' לערך enforce.',
    ],
    decidedByFields: fields => ['נקבע לפי ', ...fields, '.'],
    toDo: 'מה לעשות: ',
    toDoWaiting: `חברו את הסיב. אפשר יהיה להתחיל משימות ברגע ש-${SERVER} ידווח עליו.`,
    toDoUnreachable: url => [`בדקו ש-${SERVER} פועל ושהכתובת `, url, ' מגיבה.'],
    toDoRecovering: 'המתינו. אין צורך בפעולה.',
    toDoStarting: 'המתינו כמה שניות לדגימה הראשונה.',
    fewAtATime: (cause, isContradicted) => {
      const back = cause === 'unreachable' ? 'שוב ניתן לקרוא את המטאדאטה. ' : 'הסיב חזר. '
      return `${isContradicted ? '' : back}בקשות מתקבלות מעט בכל פעם.`
    },
    fiberUnknown: problem => ['מצב הסיב לא ידוע: ', problem, '.'],
    forecast: (cause, median, p90Ms, samples, confidence) => [
      'ההשבתה הזאת צפויה להימשך ',
      median,
      ` בסך הכול; אחת מעשר נמשכת יותר מ-${duration(p90Ms)}. `,
      `${confidences[confidence]} ${plural(samples, { one: 'השבתה קודמת אחת', two: 'שתי השבתות קודמות', other: '# השבתות קודמות' })}${forecastCauses[cause ?? 'starting']}.`,
    ],
    contradiction: `${SERVER} סותר את עצמו:`,
    contradictionWhy: (since, fields) => [
      ' לפי המטאדאטה שלו הסיב מחובר, אבל לפי תשובותיו לבקשות configure הסיב לא מחובר (',
      fields,
      '), ',
      ...since,
      '.',
    ],

    // The last hours
    lastMinutes: minutes =>
      minutes < 60
        ? plural(minutes, { one: 'הדקה האחרונה', two: 'שתי הדקות האחרונות', other: '# הדקות האחרונות' })
        : plural(minutes / 60, { one: 'השעה האחרונה', two: 'השעתיים האחרונות', other: '# השעות האחרונות' }),
    statesTitle: 'מצב',
    statesAsTable: 'המצבים כטבלה',
    newestFirst: 'מהחדש לישן',
    legend,
    phases,
    overReadings: (words, readings) => `${words} (לפי הקריאות: ${readings})`,
    spanTip: (state, from, durationMs) => `${state}, מ-${from}, ${duration(durationMs)}`,
    statesLabel: (from, to, lasted, number) => {
      const parts = [...lasted].map(([phase, ms]) => `${legend[phase]} במשך ${duration(ms)}`)
      return `המצבים מ-${from} עד ${to}: ${[...parts, number === 0 ? 'בלי השבתות' : outages(number)].join(', ')}.`
    },
    soFar: ' עד כה',
    refusedTitle: 'בקשות שנדחו בכל דקה',
    wouldRefuseTitle: 'בקשות שהיו נדחות בכל דקה',
    refusedAsTable: 'הבקשות שנדחו כטבלה',
    none: 'אין',
    refusedSum: (sum, highest, at, since, wouldRefuse) => {
      const observed = wouldRefuse === 0 ? '' : `; עוד ${wouldHaveBeen(wouldRefuse)}`
      return `${count(sum)} מאז ${since}, לכל היותר ${count(highest)} בדקה, ב-${at}${observed}`
    },
    chartLabel: (title, from, to, words) => `${title} מ-${from} עד ${to}: ${words}.`,
    barTip: (at, refused, wouldRefuse) =>
      wouldRefuse === 0
        ? `${at}: ${count(refused)}`
        : `${at}: ${plural(refused, { one: 'אחת נדחתה', two: 'שתיים נדחו', other: '# נדחו' })}, ${wouldHaveBeen(wouldRefuse)}`,
    wouldRefuse: 'היו נדחות',
    reports: 'דוחות',
    report1: '24 שעות',
    report7: '7 ימים',
    report30: '30 יום',
    from: 'התחלה',
    state: 'מצב',
    lasted: 'משך',
    minute: 'דקה',
    refused: 'נדחו',

    // The last reading
    readingTitle: 'הקריאה האחרונה',
    metadataCaption: `המטאדאטה של ${SERVER}`,
    field: 'שדה',
    value: 'ערך',
    result: 'תוצאה',
    noneYet: 'אין עדיין',
    kinds: {
      ready: 'הסיב מחובר',
      waiting: 'הסיב לא מחובר',
      unreachable: 'לא ניתן היה לקרוא את המטאדאטה',
    },
    inARow: streak => plural(streak, { one: ', פעם אחת', two: ', פעמיים ברצף', other: ', # פעמים ברצף' }),
    decidedBy: 'נקבע לפי',
    fieldIs: (name, value) => (value === undefined ? [name] : [name, ', שערכו ', value]),
    problem: 'תקלה',
    time: 'זמן',
    source: 'מקור',
    sources: {
      probe: 'דגימה',
      configure: `תשובה של ${SERVER} לבקשת configure`,
      client: 'מטאדאטה שלקוח ביקש',
    },
    lastReady: 'מוכן לאחרונה',
    notSinceStart: 'לא מאז ההפעלה',
    responds: ', מגיב',
    doesNotRespond: ', אינו מגיב כמצופה',
    decided: 'קובע',

    // Requests
    countsTitle: 'בקשות',
    ofThem: (part, span) => `${count(part)} (${span})`,
    countRefused: 'נדחו',
    countWouldRefuse: 'היו נדחות',
    countForwarded: 'הועברו',
    countInFlight: 'מוגנות, בטיפול',
    countWaiting: 'ממתינות לקבלה',
    countProbes: 'דגימות',
    countOverloaded: 'נדחו כי התור מלא',
    countsSinceStart: time => [`מאז הפעלת ${PROXY} ב-`, time, '; הפעלה מחדש מאפסת את המספרים.'],
    countsSince: time => ['מאז ', time, ', ברצף גם אחרי הפעלה מחדש.'],
    replicasJoined: (name, replicas, isProber) => [
      'רפליקה ',
      name,
      replicas === 1 ? ', היחידה.' : `, אחת מתוך ${count(replicas)}.`,
      isProber && replicas > 1 ? ' היא דוגמת עבור כולן.' : '',
    ],
    replicasAlone: (name, problem) => [
      'רפליקה ',
      name,
      ' אינה מצליחה להתחבר לרפליקות האחרות ומסתמכת רק על הקריאות שלה: ',
      problem,
      '.',
    ],

    // Clients
    clientsTitle: 'לקוחות שממשיכים לנסות',
    clientsAsTable: 'טבלת הלקוחות שממשיכים לנסות',
    clientsNone: minutes =>
      plural(minutes, {
        one: 'בדקה האחרונה לא היה לקוח שחזר על בקשה שנדחתה.',
        two: 'בשתי הדקות האחרונות לא היה לקוח שחזר על בקשה שנדחתה.',
        other: 'ב-# הדקות האחרונות לא היה לקוח שחזר על בקשה שנדחתה.',
      }),
    clientsSince: (time, kept) => [kept ? 'נספר מאז ' : `נספר מאז הפעלת ${PROXY} ב-`, time, '.'],
    noClientSince: (time, kept) => [
      kept ? 'לא נדחו בקשות של לקוחות מאז ' : 'לא נדחו בקשות של לקוחות מאז ההפעלה ב-',
      time,
      '.',
    ],
    lastFirst: 'מהאחרון לראשון',
    otherClients: clients => `לקוחות אחרים שנדחו (${count(clients)})`,
    moreClients: more =>
      more > 0
        ? plural(more, {
            one: 'לקוח נוסף אחד אינו מוצג.',
            two: 'שני לקוחות נוספים אינם מוצגים.',
            other: '# לקוחות נוספים אינם מוצגים.',
          })
        : '',
    client: 'לקוח',
    attempts: 'ניסיונות',
    operations: 'פעולות',
    interval: 'מרווח',
    first: 'ראשון',
    last: 'אחרון',
    otherAgents: 'תוכנות אחרות מכתובת זו',
    noAgent: 'ללא user agent',
    cadence: interval =>
      interval === null ? 'לא סדיר' : interval === 0 ? 'ללא הפסקה' : `כל ${seconds(interval)}`,

    // Outages
    outagesTitle: 'השבתות',
    outagesAsTable: 'טבלת ההשבתות',
    outagesNone: 'לא ידוע על השבתות.',
    began: 'התחלה',
    ended: 'סיום',
    cause: 'סיבה',
    ongoing: 'נמשכת',
    nextCause: ', ואחר כך ',
    outagesSum: (number, since, refused, wouldRefuse) => [
      `${outages(number)} מאז `,
      since,
      `. במהלך ההשבתות ${refusedSentence(refused, wouldRefuse)} בקשות שנדחו בגלל עקיפה נספרות רק בסך הכול.`,
    ],

    // An outage that is open on the page
    loading: 'טוען…',
    outageUnknown: 'ההשבתה שבכתובת הדף כבר אינה שמורה.',
    outageNotKept: 'הפרטים של ההשבתה הזאת כבר אינם שמורים.',
    outageLabel: cause => `פרטי ההשבתה: ${cause}`,
    outageSpan: (from, to, lasted) =>
      to === undefined ? ['מאז ', from, ' (', lasted, ').'] : ['מ-', from, ' עד ', to, ' (', lasted, ').'],
    outageCounts: (refused, wouldRefuse, operations) => {
      const words = refusedSentence(refused, wouldRefuse)
      if (refused + wouldRefuse === 0) return words
      const from = plural(operations, {
        one: 'מפעולה אחת',
        two: 'משתי פעולות שונות',
        other: 'מ-# פעולות שונות',
      })
      return `${words} ${theyCame(refused + wouldRefuse)} ${from}.`
    },
    outageSpared: (spared, refused) =>
      spared === 0
        ? `${theyCame(refused)} בזמן שלא ניתן היה לקרוא את המטאדאטה של ${SERVER}, או מיד אחר כך.`
        : spared >= refused
          ? `בזמן הזה ${SERVER} פעל, ${refused === 1 ? 'והיא לא הגיעה' : 'ואף אחת מהן לא הגיעה'} אליו.`
          : `${plural(spared, { one: 'אחת מהן הגיעה', two: 'שתיים מהן הגיעו', other: '# מהן הגיעו' })} בזמן ש-${SERVER} פעל, ולא ${spared === 1 ? 'הועברה' : 'הועברו'} אליו; ${refused - spared === 1 ? 'האחרת הגיעה' : 'האחרות הגיעו'} בזמן שלא ניתן היה לקרוא את המטאדאטה שלו, או מיד אחר כך.`,
    whatHappened: 'מה קרה',
    overrideIn: (reason, by, end) => [reason, '; הוגדרה על ידי ', by, ', עד ', ...end],
    refusedPer: (minutes, isObserved) => {
      const span = plural(minutes, { one: 'בכל דקה', two: 'בכל שתי דקות', other: 'בכל # דקות' })
      return `${isObserved ? 'בקשות שהיו נדחות' : 'בקשות שנדחו'} ${span}`
    },
    sumLabel: (heading, sum) => `${heading}: ${count(sum)} בסך הכול.`,
    atUnknownTime: value =>
      plural(value, {
        one: 'ועוד בקשה אחת בזמן לא ידוע.',
        two: 'ועוד שתי בקשות בזמן לא ידוע.',
        other: 'ועוד # בקשות בזמן לא ידוע.',
      }),
    omittedChanges: value =>
      plural(value, {
        one: 'שינוי אחד באמצע אינו מוצג.',
        two: 'שני שינויים באמצע אינם מוצגים.',
        other: '# שינויים באמצע אינם מוצגים.',
      }),
    clientsIn: 'לקוחות',
    others: 'לקוחות אחרים',
    runsIn: 'הרצות בדיקות',
    run: 'הרצת בדיקות',
    otherRuns: 'הרצות אחרות',
    withoutRun: 'בקשות שאינן מהרצת בדיקות',
    letIn: 'בקשות שהתקבלו במהלך ההתאוששות',
    letInNote: 'בקשות מוגנות שהתקבלו לפני שהמעגל נסגר.',
    moreLetIn: more =>
      plural(more, {
        one: 'עוד אחת אינה מוצגת.',
        two: 'עוד שתיים אינן מוצגות.',
        other: 'עוד # אינן מוצגות.',
      }),
    operation: 'פעולה',
    dataAs: (json, csv) => ['הנתונים גם בתבנית ', json, ' או ', csv, '.'],

    // The report
    skipToReport: 'דילוג אל הדוח',
    reportFailed: 'לא ניתן היה לטעון את הדוח. טענו את הדף מחדש.',
    toPage: 'המצב הנוכחי',
    reportTitle: days =>
      days === 1
        ? '24 השעות האחרונות'
        : plural(days, {
            one: 'היום האחרון',
            two: 'היומיים האחרונים',
            other: '# הימים האחרונים',
          }),
    reportPeriod: (from, to) => ['מ-', from, ' עד ', to, ' UTC'],
    print: 'הדפסה',
    reportAvailability: 'מוכן למשימות',
    reportWithout: 'ממתין לסיב',
    reportAbsent: `אין גישה אל ${SERVER}`,
    reportOutages: 'השבתות',
    reportRefused: 'ניסיונות שנדחו',
    reportWouldRefuse: 'ניסיונות שהיו נדחים',
    reportSaved: 'זמן בדיקות שנחסך (הערכה)',
    reportObserved: (observedMs, notRunningMs, since) => [
      `במהלך התקופה ${PROXY} עקב במשך ${duration(observedMs)}`,
      notRunningMs === 0 ? '' : ` ולא פעל במשך ${duration(notRunningMs)}`,
      '. האחוזים מחושבים מזמן המעקב.',
      ...(since === undefined ? [] : [' אין נתונים מלפני ', since, '.']),
    ],
    reportOtherPhases: spans => `מצבים אחרים: ${spans.join(', ')}.`,
    reportNotKept: `בלי history.file הדוח מתחיל מהפעלת ${PROXY}.`,
    reportLongestOutage: (link, length, cause) => [
      `ההשבתה הארוכה ביותר נמשכה ${length}: `,
      link,
      `, ${cause}.`,
    ],
    reportUnderWay: ' היא עדיין נמשכת.',
    reportAbsences: (value, longest) =>
      value === 0
        ? `הייתה גישה אל ${SERVER} בכל הדגימות.`
        : `לא הייתה גישה אל ${SERVER} ${plural(value, { one: 'פעם אחת', two: 'פעמיים', other: '# פעמים' })}, לכל היותר במשך ${longest}. גם הפעלות מחדש נספרות.`,
    reportSpared: (spared, refused) => {
      const when = `בזמן שהסיב לא היה מחובר ו-${SERVER} פעל.`
      if (spared === 0) {
        const none = plural(refused, {
          one: 'הניסיון היחיד שנדחה לא הגיע',
          two: 'אף אחד משני הניסיונות שנדחו לא הגיע',
          other: 'אף אחד מ-# הניסיונות שנדחו לא הגיע',
        })
        return `${none} ${when}`
      }
      const all = plural(refused, { two: 'שני ניסיונות', other: '# ניסיונות' })
      const came = plural(spared, { one: 'אחד הגיע', two: 'שניים הגיעו', other: '# הגיעו' })
      const which = refused === 1 ? 'הניסיון היחיד שנדחה הגיע' : `מתוך ${all} שנדחו, ${came}`
      return `${which} ${when} ${SERVER} לא נאלץ לדחות ${spared === 1 ? 'אותו' : 'אותם'} בעצמו.`
    },
    reportAssumption: (spared, each, measured) => {
      const attempts = plural(spared, { one: 'ניסיון אחד', two: 'שני ניסיונות', other: '# ניסיונות' })
      const model = plural(measured, {
        one: 'הבקשה המוגנת היחידה שעליה',
        two: 'החציון של שתי הבקשות המוגנות שעליהן',
        other: 'החציון של # הבקשות המוגנות שעליהן',
      })
      return `הזמן שנחסך: ${attempts} כפול ${seconds(each)}. ההנחה היא ${spared === 1 ? 'שהוא' : 'שכל אחד מהם'} היה נמשך כמו ${model} השיב ${SERVER} בתקופה זו.`
    },
    reportNoSaved: `הזמן שנחסך אינו מוערך: בתקופה זו ${SERVER} לא השיב על אף בקשה מוגנת.`,
    reportByHour: 'לפי שעה',
    reportByDay: 'לפי יום (UTC)',
    reportHour: 'שעה',
    reportDay: 'יום',
    reportSum: 'סך הכול',
    reportNotObserved: 'ללא מעקב',
    reportTip: (from, part) => `${from}: ${part === undefined ? 'ללא מעקב' : `מוכן ${part} מהזמן`}`,
    reportChart: (heading, part) =>
      `${heading}: הזמן בכל מצב. ${part === undefined ? 'לא היה מעקב.' : `מוכן ${part} מזמן המעקב.`}`,
    reportRowsTable: 'טבלת השעות או הימים',
    reportCausesTable: 'טבלת הסיבות',
    reportClientsTable: 'טבלת הלקוחות',
    reportRunsTable: 'טבלת הרצות הבדיקות',
    reportCauses: 'השבתות לפי סיבה',
    reportCount: 'השבתות שהתחילו מסיבה זו',
    reportInAll: 'משך כולל',
    reportLongest: 'התקופה הארוכה ביותר',
    reportClients: 'ניסיונות שנדחו לפי לקוח',
    reportRuns: 'ניסיונות שנדחו לפי הרצת בדיקות',
    reportMade: at => [`הדוח הופק ב-${PROXY} ב-`, at, '. הימים והשעות לפי UTC.'],

    // The manual override
    operatorTitle: 'עקיפה ידנית',
    notKept: `עקיפה שמוגדרת כאן מסתיימת כש-${PROXY} מופעל מחדש.`,
    noOverride: 'לא הוגדרה עקיפה: הקריאות קובעות.',
    standing: (action, until, reason) => [action, ' ', ...until, ': ', reason],
    action: 'פעולה',
    stop: 'עצירה',
    stopChoice: 'עצירה.',
    stopHint: 'כל בקשה מוגנת נדחית, גם כשהסיב מחובר. במצב צפייה (observe) היא רק נספרת.',
    letAllThrough: 'מעבר חופשי',
    letThroughChoice: 'מעבר חופשי.',
    letThroughHint: 'שום בקשה אינה נדחית, גם כשהסיב לא מחובר.',
    maintenanceChoice: 'תחזוקה מתוכננת.',
    maintenanceHint: 'כמו עצירה, ובלי שליחת התראה.',
    reason: 'סיבה',
    reasonHint: 'כל לקוח שבקשתו נדחית וכל מי שפותח את הדף יכול לקרוא אותה.',
    forMinutes: 'משך בדקות',
    endsAt: time => `מסתיים ב-${time}`,
    minutesInvalid: 'מספר שלם בין 1 ל-1440',
    token: 'אסימון',
    tokenHint: 'הערך שהוגדר ב-admin.token. הוא נשמר רק בדף הזה, עד שהדף נסגר או נטען מחדש.',
    set: 'הגדרה',
    setAt: 'הוגדרה',
    remove: 'הסרת העקיפה',
    earlierOverrides: 'עקיפות קודמות',
    overrideEnd: (time, end, by) => {
      const words = overrideEnds[end ?? ''] ?? ', כמתוכנן'
      return [time, words, ...(by === undefined || end === 'expired' ? [] : [' על ידי ', by])]
    },
    override: 'עקיפה',
    setBy: 'הוגדרה על ידי',
    wrongToken: 'האסימון שגוי. דבר לא השתנה.',
    tooManyWrongTokens: 'נשלחו יותר מדי אסימונים שגויים, וגם זה שגוי. דבר לא השתנה.',
    noTokenConfigured: 'כבר לא מוגדר אסימון, ולכן אי אפשר לשנות כאן דבר.',
    nothingChanged: why => ['דבר לא השתנה. ', why],
    responseWas: status => `התשובה הייתה ${status}.`,
    sending: 'שולח…',
    noResponse: 'אין תשובה. לא ידוע אם משהו השתנה: בדקו את המצב למעלה.',
    overrideSet: 'העקיפה הוגדרה.',
    overrideRemoved: 'העקיפה הוסרה. הקריאות שוב קובעות.',
  }
}
