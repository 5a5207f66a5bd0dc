def lambda_handler(event:, context:)
  name = (event['queryStringParameters'] || event).fetch('name', 'world')
  puts "greeting #{name}"
  { message: "Hello, #{name}!" }
end
