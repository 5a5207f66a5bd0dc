# The probe in Ruby: a handler that does what its event says, as `tests/sdk/behaviour/__init__.py` describes it.

require 'securerandom'

WHO = SecureRandom.hex
$calls = 0

# What it raises when asked to.
class ProbeError < StandardError; end

# The end of the initialisation, if the function's variables ask for one.
case ENV['PROBE_INIT']
when 'raise' then raise ProbeError, 'at the start'
when 'exit' then exit!(5)
when 'hang' then sleep(60)
end

def facts(context)
  client = context.client_context
  {
    id: context.aws_request_id, name: context.function_name, version: context.function_version,
    memory: context.memory_limit_in_mb.to_s, arn: context.invoked_function_arn, group: context.log_group_name,
    stream: context.log_stream_name, left: context.get_remaining_time_in_millis, client: client && client['custom']
  }
end

def files
  File.write('/tmp/notes', 'x', mode: 'a')
  refused = begin
    File.write('/var/task/new', '')
    false
  rescue SystemCallError
    true
  end
  { who: WHO, folder: Dir.pwd, notes: File.size('/tmp/notes'), refused: refused, data: File.read('/var/task/data.txt') }
end

def handler(event:, context:)
  $calls += 1
  if event.is_a?(Hash) && event.key?('requestContext')
    headers = { 'content-type' => 'application/octet-stream' }
    return { statusCode: 200, headers: headers, isBase64Encoded: true, body: event['body'] }
  end
  what = event.is_a?(Hash) ? event['do'] : nil
  if %w[raise exit signal spin allocate].include?(what)
    puts "at #{WHO}"
    $stdout.flush
  end
  case what
  when 'raise' then raise ProbeError, event['message']
  when 'exit' then exit!(event['code'])
  when 'signal' then Process.kill(event['number'], Process.pid) && sleep
  when 'allocate' then held = []; loop { held << 'x' * (8 << 20) }
  when 'spin' then loop {}
  when 'sleep'
    sleep(event['ms'] / 1000.0)
    { who: WHO, calls: $calls }
  when 'count' then { who: WHO, calls: $calls }
  when 'environment' then ENV.to_h
  when 'context' then facts(context)
  when 'print'
    event['lines'].each { |line| puts line }
    warn 'to stderr'
    nil
  when 'large' then 'x' * event['bytes']
  when 'files' then files
  else event
  end
end
